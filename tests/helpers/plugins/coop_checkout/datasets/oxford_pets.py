from dassl.data.datasets import DATASET_REGISTRY, DatasetBase


@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):
    whose = "coop_checkout"
