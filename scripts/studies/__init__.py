"""What `scripts/reproduce.py` repeats: groups of studies, in the order of docs/results.md.

A study is a `Study` of `study.py`. Its module has the functions that make numbers, text and pictures; the YAML file
beside the module has its sweeps and words. `tables.py` makes Markdown, `style.py` pictures.
"""

from studies import (
    activation_gradient,
    comparison,
    jacobian,
    jacobian_outputs,
    jacobian_robust,
    large_margin,
    lecture_losses,
    lecture_optimizers,
    lecture_signals,
    lecture_training,
    lecture_weights,
    margin_moons,
    margin_question,
    tangent_curves,
    tangent_images,
    weights,
)
from studies.study import Folders, Study

GROUPS: dict[str, dict[str, Study]] = {
    "The lecture": {
        **lecture_losses.STUDIES,
        **lecture_optimizers.STUDIES,
        **lecture_weights.STUDIES,
        **lecture_signals.STUDIES,
        **lecture_training.STUDIES,
    },
    "Tangent Prop": {**tangent_curves.STUDIES, **tangent_images.STUDIES},
    "Jacobian": {**jacobian.STUDIES, **jacobian_outputs.STUDIES, **jacobian_robust.STUDIES},
    "Large margin": {**large_margin.STUDIES, **margin_moons.STUDIES, **margin_question.STUDIES},
    "Activation gradient": activation_gradient.STUDIES,
    "Comparisons": {**comparison.STUDIES, **weights.STUDIES},
}
STUDIES: dict[str, Study] = {name: study for group in GROUPS.values() for name, study in group.items()}
