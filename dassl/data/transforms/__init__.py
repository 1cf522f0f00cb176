"""Image transforms."""

from .augmentations import Cutout, GaussianNoise, InstanceNormalization, Random2DTranslation
from .randaugment import RandAugment, RandAugment2, RandAugmentFixMatch
from .transforms import AVAI_CHOICES, INTERPOLATION_MODES, build_transform
