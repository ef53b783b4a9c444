"""Criteria (losses per example) and penalties, usable alone: nothing here imports the runner."""

from losses.criterion import MSE as MSE
from losses.criterion import NLL as NLL
from losses.criterion import AbsoluteError as AbsoluteError
from losses.criterion import Criterion as Criterion
from losses.criterion import CrossEntropy as CrossEntropy
from losses.criterion import MSEOneHot as MSEOneHot
from losses.criterion import MultiMargin as MultiMargin
from losses.criterion import SumOfSquares as SumOfSquares
from losses.eager import EagerForward as EagerForward
from losses.forward import Forward as Forward
from losses.forward import Tangent as Tangent
from losses.functional import FunctionalForward as FunctionalForward
from losses.gradients import ActivationGradient as ActivationGradient
from losses.gradients import InputGradient as InputGradient
from losses.gradients import WeightGradient as WeightGradient
from losses.jacobian import Jacobian as Jacobian
from losses.jacobian import JacobianSpectral as JacobianSpectral
from losses.large_margin import LargeMargin as LargeMargin
from losses.penalty import Penalty as Penalty
from losses.tangent_prop import TangentProp as TangentProp
from losses.weights import L1 as L1
from losses.weights import L2 as L2
from losses.weights import ElasticNet as ElasticNet
