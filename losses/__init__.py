"""Training objectives. Imports no other package of this repository."""

from losses.fidelity import fidelity_loss
from losses.quality import all_pairs_loss, quality_loss

__all__ = ["all_pairs_loss", "fidelity_loss", "quality_loss"]
