"""EuroSAT (Helber et al., 2019)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.sources import Counts, Piece, Source, drive
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
        Piece(
            "2750",
            (
                Source(
                    "EuroSAT.zip",
                    url="http://madm.dfki.de/files/sentinel/EuroSAT.zip",
                    md5="c8fa014336c82ac7804f0398fcb19387",
                    moves=(("2750", "2750"),),
                ),
                Source(
                    "EuroSAT_RGB.zip",
                    url="https://zenodo.org/records/7711810/files/EuroSAT_RGB.zip",
                    moves=(("EuroSAT_RGB", "2750"),),
                ),
            ),
        ),
        drive("split_zhou_EuroSAT.json", "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o"),
    )
    counts = Counts(10, 13500, 5400, 8100)

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir, new_cnames=NEW_CNAMES)
