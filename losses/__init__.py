"""Training objectives. Imports no other package of this repository."""

from losses.fidelity import fidelity_loss
from losses.quality import quality_loss

__all__ = ["fidelity_loss", "quality_loss"]
