import texts
from dassl.engine import TRAINER_REGISTRY, TrainerX
from trainers.texts import CUSTOM_TEMPLATES

from .texts import CUSTOM_TEMPLATES as same

assert CUSTOM_TEMPLATES is same is texts.CUSTOM_TEMPLATES


@TRAINER_REGISTRY.register()
class KgCoOp(TrainerX):
    template = CUSTOM_TEMPLATES["EuroSAT"]
