"""EuroSAT (Helber et al., 2019)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.splits import Parts, read_and_split_data

NEW_CNAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@DATASET_REGISTRY.register()
class EuroSAT(CoOpDataset):
    """Satellite images of land use; 10 classes."""

    dataset_dir = "eurosat"
    image_folder = "2750"
    split_file = "split_zhou_EuroSAT.json"

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir, new_cnames=NEW_CNAMES)
