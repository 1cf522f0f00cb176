from clip import clip
from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer
from dassl.engine import TRAINER_REGISTRY, TrainerX

_tokenizer = _Tokenizer()


@TRAINER_REGISTRY.register()
class VPT(TrainerX):
    clip = clip
