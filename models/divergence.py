"""How far two distributions are apart, by Hoelder's inequality.

    sum p q  <=  (sum p^a)^(1/a) (sum q^b)^(1/b),      1/a + 1/b = 1

The logarithm of the quotient of both sides is never negative. Taken of p and q themselves it is
no divergence: it is zero where p^a is proportional to q^b, and not where p equals q. Taken of
p^(g/a) and q^(g/b) it is zero there and nowhere else (Nielsen, Sun, Marchand-Maillet: On Hoelder
Projective Divergences. Entropy 2017). With a = g = 2 it is the Cauchy-Schwarz divergence.

Both take logarithms of probabilities, `(..., N)`, and return `(...)`, in nats.
"""

from torch import Tensor


def holder(log_p: Tensor, log_q: Tensor, alpha: float, gamma: float) -> Tensor:
    """Return the proper divergence: zero where p = q alone. `alpha` > 1, `gamma` > 0."""
    beta = alpha / (alpha - 1)
    together = (gamma / alpha * log_p + gamma / beta * log_q).logsumexp(-1)
    return (gamma * log_p).logsumexp(-1) / alpha + (gamma * log_q).logsumexp(-1) / beta - together


def pseudo_holder(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    """Return the pseudo-divergence, zero where p^alpha is proportional to q^beta. `alpha` > 1."""
    beta = alpha / (alpha - 1)
    together = (log_p + log_q).logsumexp(-1)
    return (alpha * log_p).logsumexp(-1) / alpha + (beta * log_q).logsumexp(-1) / beta - together
