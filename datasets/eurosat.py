"""EuroSAT (Helber et al., 2019)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.sources import Counts, drive, either, web
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
    paper_name = "EuroSAT"
    template = "a centered satellite photo of {}."
    pieces = (
        either(
            web("2750", "http://madm.dfki.de/files/sentinel/EuroSAT.zip", "c8fa014336c82ac7804f0398fcb19387"),
            web("2750", "https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip", inside="EuroSAT_RGB"),
        ),
        drive("split_zhou_EuroSAT.json", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    )
    counts = Counts(10, 13500, 5400, 8100)

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir, new_cnames=NEW_CNAMES)
