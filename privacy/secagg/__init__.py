"""Secure aggregation: the coordinator learns the sum of the sites' updates and no single one.

Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth: Practical Secure
Aggregation for Privacy-Preserving Machine Learning, CCS 2017, the version against a server
that lies. Every pair of sites i < j agrees on a secret stream of numbers, p[i, j]; site i has one
more of its own, b[i]. Of an update x[i], integers modulo 2^32, site i sends

    y[i] = x[i] + b[i] + sum over j > i of p[i, j] - sum over j < i of p[j, i]        mod 2^32

In the sum of all y the p cancel. What is left to take away is b[i] of each site that is there,
and p[i, .] of each site that vanished after the others had counted on it; both can be rebuilt
from *shares* that t of the n sites hold. The five steps of a round, each of them one task:

    advertise    site -> two fresh X25519 keys, signed with the site's pinned Ed25519 key
    share        all sites' keys -> shares of its mask key and of its b, one sealed letter a peer
    contribute   its letters, the parameters -> trains, masks, sends y
    agree        who contributed -> signs that list, and never another one
    reveal       t signatures under one list -> of each site a share of b (it contributed) or of
                 its mask key (it did not), never both

    terms        what all must agree on, bound into every key, letter and signature
    shamir       shares of a secret
    channel      X25519, HKDF, AES-GCM
    masks        streams of AES in counter mode, fused with the addition
    fixed        from float32 to integers and back
    site         the steps at a site
    coordinator  the steps at the coordinator

All of it is per parameter group: a group has its own contributors, masks and b, and one that
fewer than `fewest` sites contribute to is not sent, or not unmasked. Pure: nothing here knows a file, a
message or a network.
"""
