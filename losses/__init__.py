"""Criteria (losses of each example) and penalties, usable alone: nothing here imports the runner.

Installed, as by `pip install .`, this package is called `penalty_lab`.
"""

from .criterion import MSE as MSE
from .criterion import NLL as NLL
from .criterion import AbsoluteError as AbsoluteError
from .criterion import Criterion as Criterion
from .criterion import CrossEntropy as CrossEntropy
from .criterion import MSEOneHot as MSEOneHot
from .criterion import MultiMargin as MultiMargin
from .criterion import SumOfSquares as SumOfSquares
from .eager import EagerForward as EagerForward
from .forward import Forward as Forward
from .forward import Tangent as Tangent
from .functional import FunctionalForward as FunctionalForward
from .functions import input_gradients as input_gradients
from .functions import jacobian as jacobian
from .functions import jacobian_norm as jacobian_norm
from .functions import per_example_gradients as per_example_gradients
from .functions import tangent_derivative as tangent_derivative
from .gradients import ActivationGradient as ActivationGradient
from .gradients import InputGradient as InputGradient
from .gradients import WeightGradient as WeightGradient
from .jacobian import Jacobian as Jacobian
from .jacobian import JacobianSpectral as JacobianSpectral
from .large_margin import LargeMargin as LargeMargin
from .parameters import weights_of as weights_of
from .penalty import Penalty as Penalty
from .tangent_prop import TangentProp as TangentProp
from .verify import verify as verify
from .weights import L1 as L1
from .weights import L2 as L2
from .weights import ElasticNet as ElasticNet
