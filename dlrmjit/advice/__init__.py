"""Advises how to train a model: batch size, ranks, threads, placement, communication, precision."""

from dlrmjit.advice.advise import Advice, Target, advise
from dlrmjit.advice.machine import Machine
from dlrmjit.advice.network import Network
from dlrmjit.advice.noise import NoiseMeter, noise_scale

__all__ = ["Advice", "Machine", "Network", "NoiseMeter", "Target", "advise", "noise_scale"]
