"""How many gradient steps a site takes in a round, and how long each is: what SCAFFOLD's centre must know of it."""

from dataclasses import dataclass

from face2bone_model.contract.study import Study


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """Plain gradient steps of one round at one site."""

    count: int
    """SCAFFOLD's K."""
    learning_rate: float


def local_steps(study: Study, num_patients: int, *, private: bool) -> LocalSteps:
    """The steps of a site with `num_patients` training patients, in a study whose sites stop early nowhere.

    Args:
        study: gives epochs and batch size, or the private steps that take their place.
        num_patients: as the site's update states it.
        private: whether the site trained with differential privacy: its update then names a noise multiplier.
    """
    if private:
        return LocalSteps(count=study.privacy.steps_per_round, learning_rate=study.privacy.learning_rate)
    batches = -(-num_patients // study.training.batch_size)
    return LocalSteps(count=study.training.local_epochs * batches, learning_rate=study.training.learning_rate)
