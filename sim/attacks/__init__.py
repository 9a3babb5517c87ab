"""Attacks on this project's own training, so that a promise comes with a measurement.

    canaries     how much a run's released steps tell of who took part: a lower bound of epsilon
    membership   whether a patient can be told to have been trained on (LiRA)
    inversion    whether a scan can be rebuilt from one step's update
    poison       updates that no server should take

Every patient here is made up (`hospital`): what an attack finds about them is nobody's secret, so
its result may be published without a privacy cost. An attack that fails proves nothing: it bounds
from below what an adversary can do. So each is run on undefended training too, and where it
fails even there, its number says little.
"""
