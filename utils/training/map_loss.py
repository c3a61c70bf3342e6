"""The map loss: a quality map must fall where a photograph becomes worse, and nowhere else.

Opinions say how good a photograph is, and nothing about where. So some mini-patches of distortion views are degraded
(`data.faults`), and the map of the degraded view is compared with that of the view itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from data.faults import add_faults
from data.seeding import Purpose, derive_generator
from data.views import to_image, to_view
from models.uiqa import QualityModel

SHARE = 4  # the loss looks at one in so many photographs of a batch


@dataclass(frozen=True)
class MapLoss:
    """The weighted squared error of how the maps of some photographs change, in standard deviations of opinions.

    Attributes:
        weight: of this loss in the objective.
        n_fragment: mini-patches along each side of the distortion view, at least 2.
        seed: of the run.
        mean, sd: of the training opinions, on the scale of the loss.
    """

    weight: float
    n_fragment: int
    seed: int
    mean: float
    sd: float

    def __call__(
        self, model: QualityModel, views: torch.Tensor, mos: torch.Tensor, count: int, draw: tuple[int, int]
    ) -> torch.Tensor:
        """Return the loss of a part of a batch; summed over parts, it is that of the batch.

        Only photographs with opinions above the mean are chosen, at most a quarter of the part: what is out of focus
        already becomes no worse by a blur. Their maps are those of scoring, with the fixed statistics of batch
        normalisation.

        Args:
            model: has a distortion branch.
            views: (n, 3, S, S) uint8, distortion views of the part.
            mos: (n,) opinions on the scale of the loss.
            count: photographs of the whole batch.
            draw: numbers of the step and of the part. With the seed, all that the faults depend on.

        Returns:
            A scalar: the sum of each chosen photograph's mean over its map, over the count.
        """
        chosen = torch.nonzero(mos > self.mean).flatten()[: -(-len(mos) // SHARE)]
        if not len(chosen):
            return 0.0 * mos.sum()
        sound = views[chosen]
        generator = derive_generator(Purpose.MAP_LOSS, self.seed, *draw)
        pairs = [add_faults(image, self.n_fragment, generator) for image in to_image(sound.cpu())]
        degraded = to_view(np.stack([image for image, _ in pairs])).to(views.device)
        drops = torch.from_numpy(np.stack([drop for _, drop in pairs])).to(views.device)
        with model.trunk_as_scored("distortion"):
            before, after = model.contribution_map("distortion", torch.cat([sound, degraded])).chunk(2)
        changes = (after - before).float() / self.sd
        errors = changes + adaptive_avg_pool2d(drops, changes.shape[1:])
        return self.weight * errors.square().mean(dim=(1, 2)).sum() / count
