"""What a trained model is worth: losses and errors, and probes of its function and of its robustness."""

from runner.evaluation.evaluate import Evaluation as Evaluation
from runner.evaluation.evaluate import evaluate as evaluate
from runner.evaluation.probes import Boundary as Boundary
from runner.evaluation.probes import JacobianNorm as JacobianNorm
from runner.evaluation.probes import Probe as Probe
from runner.evaluation.probes import Slope as Slope
from runner.evaluation.probes import Subject as Subject
from runner.evaluation.probes import Zeros as Zeros
from runner.evaluation.robustness import Attack as Attack
from runner.evaluation.robustness import Noise as Noise
from runner.evaluation.robustness import Rotation as Rotation
from runner.evaluation.robustness import Shift as Shift
