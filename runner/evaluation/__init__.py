"""What a trained model is worth: losses and errors, and probes of its function and of its robustness."""

from runner.evaluation.evaluate import Evaluation, evaluate
from runner.evaluation.layers import Signal
from runner.evaluation.penalties import PenaltyValue
from runner.evaluation.probes import Boundary, JacobianNorm, Probe, Slope, Subject, Zeros
from runner.evaluation.robustness import Attack, Noise, Rotation, Shift
