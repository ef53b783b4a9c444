"""What `scripts/reproduce.py` repeats: each module has the studies of one source, in the order of docs/results.md.

A study is a `Study` of `study.py`: its sweeps, the numbers that are kept of them, the text made from these numbers, and
its pictures. `tables.py` makes Markdown, `style.py` pictures.
"""

from studies import (
    activation_gradient,
    comparison,
    jacobian,
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

STUDIES: dict[str, Study] = {
    **lecture_weights.STUDIES,
    **lecture_losses.STUDIES,
    **lecture_optimizers.STUDIES,
    **lecture_signals.STUDIES,
    **lecture_training.STUDIES,
    **tangent_curves.STUDIES,
    **tangent_images.STUDIES,
    **jacobian.STUDIES,
    **large_margin.STUDIES,
    **margin_moons.STUDIES,
    **margin_question.STUDIES,
    **activation_gradient.STUDIES,
    **comparison.STUDIES,
    **weights.STUDIES,
}
