import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX


@TRAINER_REGISTRY.register()
class IVLP(TrainerX):
    whose = clip.clip.WHOSE
