"""Transforms, samplers, loaders. Expected: facts probed on the published Dassl, and PyTorch's own loaders."""

from __future__ import annotations

import copy
import os
import pickle
import random
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler, get_worker_info
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import AVAI_CHOICES, INTERPOLATION_MODES, build_transform
from dassl.utils import MismatchError, MissingFileError, UnreadableFileError, UserError, set_random_seed


def steps(transform):
    return [type(step).__name__ for step in transform.transforms]


# Transforms


def test_train_transform_is_torchvisions_in_fixed_order(cfg):
    cfg.INPUT.TRANSFORMS = ("normalize", "random_flip", "random_resized_crop")
    cfg.INPUT.INTERPOLATION = "bicubic"
    transform = build_transform(cfg)
    assert steps(transform) == ["RandomResizedCrop", "RandomHorizontalFlip", "ToTensor", "Normalize"]
    crop, flip, _, normalize = transform.transforms
    assert (crop.size, crop.scale, crop.ratio, crop.interpolation) == (
        (16, 16), (0.08, 1.0), (3 / 4, 4 / 3), InterpolationMode.BICUBIC,
    )  # fmt: skip
    assert flip.p == 0.5 and (normalize.mean, normalize.std) == (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    reference = transforms.Compose([
        transforms.RandomResizedCrop((16, 16), scale=(0.08, 1.0), interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD),
    ])  # fmt: skip
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    for seed in range(5):
        torch.manual_seed(seed)
        ours = transform(image)
        torch.manual_seed(seed)
        assert torch.equal(ours, reference(image))


def test_without_a_crop_training_images_are_squashed(cfg):
    cfg.INPUT.TRANSFORMS = ()
    assert steps(build_transform(cfg)) == ["Resize", "ToTensor"]
    assert build_transform(cfg)(Image.new("RGB", (50, 20))).shape == (3, 16, 16)


def test_test_transform(cfg):
    cfg.INPUT.SIZE = (16, 24)
    transform = build_transform(cfg, is_train=False)
    assert steps(transform) == ["Resize", "CenterCrop", "ToTensor", "Normalize"]
    assert transform.transforms[0].size == 24 and transform.transforms[0].interpolation is InterpolationMode.BILINEAR
    assert transform(Image.new("RGB", (50, 30))).shape == (3, 16, 24)
    cfg.INPUT.TRANSFORMS = ("random_flip",)
    assert steps(build_transform(cfg, is_train=False)) == ["Resize", "CenterCrop", "ToTensor"]
    assert steps(build_transform(cfg, is_train=False, choices=["instance_norm"]))[-1] == "InstanceNormalization"


@pytest.mark.parametrize("choice", AVAI_CHOICES)
def test_every_choice_gives_an_image_of_the_size(cfg, choice):
    cfg.INPUT.TRANSFORMS = (choice,)
    cfg.INPUT.GB_K = 5
    torch.manual_seed(0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    transform = build_transform(cfg, is_train=True)
    for _ in range(3):
        result = transform(image)
        assert result.shape == (3, 16, 16) and result.isfinite().all()


def test_what_our_own_augmentations_do(cfg):
    cfg.INPUT.TRANSFORMS = ("cutout",)
    cfg.INPUT.CUTOUT_LEN = 4
    white = Image.new("RGB", (16, 16), (255, 255, 255))
    torch.manual_seed(0)
    holes = {int((build_transform(cfg)(white)[0] == 0).sum()) for _ in range(30)}
    assert max(holes) == 16 and min(holes) >= 4  # a square of 4 x 4, cut at the border at most to 2 x 2
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    cfg.INPUT.TRANSFORMS = ("instance_norm",)
    std, mean = torch.std_mean(build_transform(cfg)(noise), dim=(1, 2))
    assert torch.allclose(mean, torch.zeros(3), atol=1e-6) and torch.allclose(std, torch.ones(3), atol=1e-5)
    cfg.INPUT.TRANSFORMS, cfg.INPUT.GN_MEAN = ("gaussian_noise",), 2.0
    assert build_transform(cfg)(white).mean() == pytest.approx(3.0, abs=0.05)
    cfg.INPUT.TRANSFORMS = ("random_translation",)
    random.seed(0)
    assert len({build_transform(cfg)(noise).sum().item() for _ in range(20)}) > 3


def test_wrong_choices_are_named(cfg, capsys):
    cfg.INPUT.TRANSFORMS = ("random_flop",)
    with pytest.raises(UserError, match='unknown transform "random_flop" .did you mean "random_flip"'):
        build_transform(cfg)
    cfg.INPUT.TRANSFORMS, cfg.INPUT.INTERPOLATION = (), "cubic"
    with pytest.raises(UserError, match='unknown interpolation "cubic" .did you mean "bicubic"'):
        build_transform(cfg)
    assert set(INTERPOLATION_MODES) == {"bilinear", "bicubic", "nearest"}
    cfg.INPUT.NO_TRANSFORM = True
    assert build_transform(cfg) is None and "no transform" in capsys.readouterr().out


# Images and items


def test_items(cfg):
    dataset = build_dataset(cfg)
    item = DatasetWrapper(cfg, dataset.train_x, transform=build_transform(cfg), is_train=True)[7]
    assert list(item) == ["label", "domain", "impath", "index", "img"]
    assert (item["label"], item["domain"], item["impath"], item["index"]) == (1, 0, dataset.train_x[7].impath, 7)
    assert item["img"].shape == (3, 16, 16)


def test_several_views(cfg):
    dataset = build_dataset(cfg)
    cfg.DATALOADER.K_TRANSFORMS = 3
    cfg.DATALOADER.RETURN_IMG0 = True
    transform = build_transform(cfg)
    item = DatasetWrapper(cfg, dataset.train_x, transform=transform, is_train=True)[0]
    assert isinstance(item["img"], list) and len(item["img"]) == 3
    assert not torch.equal(item["img"][0], item["img"][1])
    squashed = Image.open(item["impath"]).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)
    expected = transforms.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)(transforms.ToTensor()(squashed))
    assert torch.equal(item["img0"], expected)
    assert DatasetWrapper(cfg, dataset.train_x, transform=transform)[0]["img"].shape == (
        3,
        16,
        16,
    )  # evaluation: one view
    cfg.DATALOADER.K_TRANSFORMS = 1
    item = DatasetWrapper(cfg, dataset.train_x, transform=[transform, transforms.ToTensor()], is_train=True)[0]
    assert item["img"].shape == (3, 16, 16) and item["img2"].shape == (3, 20, 24)
    assert DatasetWrapper(cfg, dataset.train_x)[0]["img"].size == (24, 20)
    cfg.DATALOADER.K_TRANSFORMS = 2
    with pytest.raises(UserError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, dataset.train_x, is_train=True)
    loader = build_data_loader(cfg, "SequentialSampler", dataset.train_x, 5, tfm=transform, is_train=True)
    batch = next(iter(loader))
    assert [view.shape for view in batch["img"]] == [(5, 3, 16, 16)] * 2


def test_grey_and_rotated_images_are_read_as_stored(tmp_path, cfg):
    grey = tmp_path / "grey.png"
    Image.new("L", (6, 4), 100).save(grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    wrapper = DatasetWrapper(cfg, [Datum(str(grey)), Datum(str(tmp_path / "turned.jpg"))])
    assert (wrapper[0]["img"].mode, wrapper[0]["img"].size, wrapper[1]["img"].size) == ("RGB", (6, 4), (6, 4))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "text", "gone"])
def test_a_bad_image_is_one_line_from_a_worker_too(cfg, tmp_path, workers, damage):
    good = tmp_path / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(good)
    bad = tmp_path / "bad.png"
    bad.write_bytes({"truncated": good.read_bytes()[:3000], "text": b"no image", "gone": b""}[damage])
    items = [Datum(str(good)), Datum(str(bad))]
    if damage == "gone":
        bad.unlink()
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_data_loader(cfg, "SequentialSampler", items, 1, tfm=build_transform(cfg), is_train=False)
    with pytest.raises(MissingFileError if damage == "gone" else UnreadableFileError) as caught:
        list(loader)
    message = str(caught.value)
    assert str(bad) in message and "\n" not in message and "Traceback" not in message
    assert {"truncated": "truncated", "text": "not an image", "gone": "no such image"}[damage] in message


def _die(_):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line(cfg):
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = build_data_loader(cfg, "SequentialSampler", build_dataset(cfg).train_x, 1, tfm=_die, is_train=False)
    with pytest.raises(UserError, match="DATALOADER.NUM_WORKERS 0") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_items_go_to_workers_of_any_start_method(cfg):
    wrapper = DatasetWrapper(cfg, build_dataset(cfg).train_x, transform=build_transform(cfg), is_train=True)
    again = pickle.loads(pickle.dumps(wrapper))  # our own object, as the start methods spawn and forkserver send it
    torch.manual_seed(0)
    expected = wrapper[3]["img"]
    torch.manual_seed(0)
    assert torch.equal(again[3]["img"], expected)


# Loaders


def test_loaders_of_a_data_manager(cfg, capsys):
    cfg.VERBOSE = True
    cfg.DATASET.SOURCE_DOMAINS = ("even",)
    manager = DataManager(cfg)
    out = capsys.readouterr().out
    assert "Loading dataset: ToyColours" in out
    assert out.endswith("Dataset ToyColours, Source ['even'], # classes 3, # train_x 15, # test 9\n")
    assert (manager.num_classes, manager.num_source_domains) == (3, 1)
    assert manager.lab2cname == {0: "red", 1: "green", 2: "blue"}
    assert manager.val_loader is None and manager.train_loader_u is None
    assert (len(manager.train_loader_x), len(manager.test_loader)) == (3, 1)  # 15 images: three full batches of 4
    cfg.DATASET.NUM_LABELED, cfg.DATASET.ALL_AS_UNLABELED = 2, True
    manager = DataManager(cfg, custom_tfm_train=transforms.ToTensor(), custom_tfm_test=transforms.ToTensor())
    out = capsys.readouterr().out
    assert "Using custom transform for training" in out and "# train_u 15" in out and "# val 6" in out
    assert len(manager.val_loader.dataset) == 6 and manager.train_loader_u.batch_size == 4


def test_incomplete_batches_are_dropped_in_training_only_and_never_the_only_one(cfg):
    items = build_dataset(cfg).train_x

    def sizes(batch_size, is_train):
        loader = build_data_loader(
            cfg, "SequentialSampler", items, batch_size, tfm=build_transform(cfg), is_train=is_train
        )
        return [len(batch["label"]) for batch in loader]

    assert sizes(4, True) == [4, 4, 4]
    assert sizes(4, False) == [4, 4, 4, 3]
    assert sizes(16, True) == [15]
    assert sizes(15, True) == [15]


def test_a_custom_wrapper_is_used(cfg):
    class Wrapper(DatasetWrapper):
        def __getitem__(self, idx):
            return {**super().__getitem__(idx), "extra": idx * 2}

    loader = DataManager(cfg, dataset_wrapper=Wrapper).test_loader
    assert next(iter(loader))["extra"].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_empty_sources_and_batches_are_told(cfg):
    with pytest.raises(UserError, match="no images to load for evaluation"):
        build_data_loader(cfg, data_source=[], is_train=False)
    with pytest.raises(UserError, match="batch size must be positive"):
        build_data_loader(cfg, data_source=build_dataset(cfg).train_x, batch_size=0)
    cfg.DATALOADER.NUM_WORKERS = -1
    with pytest.raises(UserError, match="NUM_WORKERS cannot be negative: -1"):
        build_data_loader(cfg, data_source=build_dataset(cfg).train_x, batch_size=1)


def test_order_and_random_numbers_of_two_epochs(cfg):
    """Each epoch takes two numbers from PyTorch's generator, a test pass one: by a plain DataLoader, and by hand."""
    manager = DataManager(cfg, custom_tfm_train=transforms.ToTensor(), custom_tfm_test=transforms.ToTensor())
    torch.manual_seed(11)
    ours = []
    for _ in range(2):
        ours.append([i for batch in manager.train_loader_x for i in batch["index"].tolist()])
        for _ in manager.test_loader:
            pass
    state = torch.get_rng_state()
    torch.manual_seed(11)
    indices = list(range(15))
    plain = DataLoader(indices, batch_size=4, sampler=RandomSampler(indices), drop_last=True)
    reference = []
    for _ in range(2):
        reference.append([i for batch in plain for i in batch.tolist()])
        torch.empty((), dtype=torch.int64).random_()  # the test pass
    assert ours == reference and torch.equal(state, torch.get_rng_state())
    torch.manual_seed(11)
    torch.empty((), dtype=torch.int64).random_()  # the loader's number; the next one is the sampler's
    seed = int(torch.empty((), dtype=torch.int64).random_())
    by_hand = torch.randperm(15, generator=torch.Generator().manual_seed(seed)).tolist()
    assert ours[0] == by_hand[:12]


def test_augmentation_draws_the_same_with_a_seed(cfg):
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        manager = DataManager(cfg)
        runs = []
        for _ in range(2):
            torch.manual_seed(4)
            runs.append(torch.cat([batch["img"] for batch in manager.train_loader_x]))
        assert torch.equal(*runs)


# Workers that live on


class Recorded(DatasetWrapper):
    """Images, and what the generators of the process give after each of them."""

    def __getitem__(self, idx):
        item = super().__getitem__(idx)
        numbers = random.random(), float(np.random.rand()), float(torch.rand(())), float(get_worker_info().seed)
        return {**item, "numbers": torch.tensor(numbers, dtype=torch.float64), "process": os.getpid()}


def recorded_loader(cfg, lasting, wrapper=Recorded, batch_size=4):
    cfg.DATALOADER.NUM_WORKERS = 2
    items, transform = build_dataset(cfg).train_x, build_transform(cfg)
    keywords = dict(tfm=transform, dataset_wrapper=wrapper, lasting_workers=lasting)
    return build_data_loader(cfg, "RandomSampler", items, batch_size, **keywords)


def read(loader, passes):
    """What some passes give, the processes that read it, and the state of the generator here after them."""
    batches = [batch for _ in range(passes) for batch in loader]
    images = [(batch["impath"], batch["img"], batch["numbers"]) for batch in batches]
    return images, {pid for batch in batches for pid in batch["process"].tolist()}, torch.get_rng_state()


def same_images(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for (paths, images, numbers), (other_paths, other_images, other_numbers) in zip(ours, theirs, strict=True):
        assert paths == other_paths and torch.equal(images, other_images) and torch.equal(numbers, other_numbers)


@pytest.mark.parametrize("batch_size", [4, 15])  # with 15 there is one batch: the second worker has nothing to do
def test_workers_that_live_on_give_what_fresh_ones_give(cfg, batch_size):
    """Order, augmentation and the numbers of every generator, in three passes; and the generator here after them."""
    results = []
    for lasting in (False, True):
        torch.manual_seed(6)
        results.append(read(recorded_loader(cfg, lasting, batch_size=batch_size), passes=3))
    (fresh, fresh_processes, fresh_state), (ours, processes, state) = results
    same_images(ours, fresh)
    assert torch.equal(state, fresh_state)
    workers = min(2, len(fresh) // 3)
    assert len(processes) == workers and len(fresh_processes) == 3 * workers
    firsts = [images[2] for images in ours]
    assert not torch.equal(firsts[0], firsts[len(ours) // 3])  # another pass, other numbers


def test_workers_after_a_pass_that_was_left_early(cfg):
    """The batches that were fetched ahead do not get into the next pass."""
    results = []
    for lasting in (False, True):
        loader = recorded_loader(cfg, lasting)
        torch.manual_seed(6)
        first = list(loader)
        left = iter(loader)
        next(left)
        results.append([(b["impath"], b["img"], b["numbers"]) for b in [*first, *loader, *left, *loader]])
    same_images(results[1], results[0])


def test_workers_see_a_transform_that_was_replaced(cfg):
    loader = recorded_loader(cfg, lasting=True)
    _, before, _ = read(loader, passes=1)
    loader.dataset.transform = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
    images, after, _ = read(loader, passes=1)
    assert images[0][1].shape[-2:] == (8, 8) and before.isdisjoint(after)


def test_a_finished_iterator_does_not_read_from_the_next_pass(cfg):
    loader = recorded_loader(cfg, lasting=True)
    finished = iter(loader)
    assert len(list(finished)) == 3
    following = iter(loader)
    assert list(finished) == [] and len(list(following)) == 3


class Failing(DatasetWrapper):
    """Images of which one cannot be read in the second pass."""

    def __getitem__(self, idx):
        if os.path.isfile(self.data_source[0].impath + ".fail"):
            raise UnreadableFileError("this image cannot be read")
        return super().__getitem__(idx)


def test_an_error_in_a_worker_that_lives_on(cfg, tmp_path):
    shutil.copytree(cfg.DATASET.ROOT, tmp_path / "images")
    cfg.DATASET.ROOT = str(tmp_path / "images")
    loader = recorded_loader(cfg, lasting=True, wrapper=Failing)
    assert len(list(loader)) == 3
    marker = loader.dataset.data_source[0].impath + ".fail"
    with open(marker, "w"):
        pass
    with pytest.raises(UnreadableFileError, match="^this image cannot be read$"):
        list(loader)
    os.unlink(marker)
    assert len(list(loader)) == 3  # by new workers


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("sampler", ["RandomSampler", "RandomClassSampler"])  # PyTorch's generator, Python's
def test_a_pass_continues_in_another_loader(cfg, workers, sampler):
    """Left after each of its batches and in the second pass; the numbers of every generator, here and in workers."""
    cfg.DATALOADER.NUM_WORKERS = workers
    items, transform = build_dataset(cfg).train_x, build_transform(cfg)

    def loader():
        wrapper = Recorded if workers else DatasetWrapper
        return build_data_loader(cfg, sampler, items, 2, tfm=transform, dataset_wrapper=wrapper, lasting_workers=True)

    def content(batch):
        return batch["impath"], batch["img"], batch.get("numbers", torch.zeros(1))

    set_random_seed(8)
    whole, batches, positions, drawn = loader(), [], [], []
    for _ in range(3):
        for batch in whole:
            drawn.append((random.random(), torch.rand(1)))  # a training step draws as well
            batches.append(content(batch))
            positions.append(copy.deepcopy(whole.position()))
    length = len(whole)
    assert len(batches) == 3 * length > 9
    for left_after in (1, 2, 4, length - 1, length + 3, 2 * length):
        set_random_seed(99)
        rest = loader()
        rest.continue_from(positions[left_after - 1])
        random.random()  # what a new process draws does not matter
        continued, numbers = [], []
        for _ in range(3 - (left_after - 1) // length):
            for batch in rest:
                numbers.append((random.random(), torch.rand(1)))
                continued.append(content(batch))
        same_images(continued, batches[left_after:])
        assert numbers == drawn[left_after:]
        assert torch.equal(rest.position()["now"]["torch"], positions[-1]["now"]["torch"])


def test_a_position_that_does_not_fit_is_refused(cfg):
    loader = recorded_loader(cfg, lasting=True)
    next(iter(loader))
    position = loader.position()
    cfg.DATALOADER.NUM_WORKERS = 3
    other = build_data_loader(cfg, "RandomSampler", loader.dataset.data_source, 4, tfm=None, lasting_workers=True)
    with pytest.raises(MismatchError, match=r"2 workers: set DATALOADER.NUM_WORKERS 2$"):
        other.continue_from(position)
    for damaged in ({}, {**position, "batches": 4}, {**position, "now": None}, {**position, "workers": {0: 1}}):
        with pytest.raises(MismatchError, match="does not fit"):
            loader.continue_from(damaged)
    with pytest.raises(MismatchError, match="does not fit"):
        recorded_loader(cfg, lasting=False).continue_from(position)


def test_many_workers_are_no_warning(cfg):
    cfg.DATALOADER.NUM_WORKERS = 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = DataManager(cfg).train_loader_x
        assert loader.num_workers == 8
        next(
            iter(
                build_data_loader(cfg, "SequentialSampler", loader.dataset.data_source[:1], 1, tfm=build_transform(cfg))
            )
        )


def test_training_workers_of_a_data_manager_live_on(cfg):
    cfg.DATALOADER.NUM_WORKERS = 2
    manager = DataManager(cfg)
    assert manager.train_loader_x.persistent_workers and not manager.test_loader.persistent_workers
    assert not DataManager(cfg, custom_tfm_train=transforms.ToTensor()).train_loader_x.persistent_workers
    assert not DataManager(cfg, dataset_wrapper=Recorded).train_loader_x.persistent_workers


# Samplers


class Item:
    def __init__(self, label, domain):
        self.label, self.domain = label, domain


ITEMS = [Item(label=k % 5, domain="abc"[k % 3]) for k in range(60)]


def test_random_domain_sampler():
    random.seed(0)
    sampler = build_sampler("RandomDomainSampler", data_source=ITEMS, batch_size=8, n_domain=2)
    order = list(sampler)
    assert len(set(order)) == len(order) and len(order) % 8 == 0
    for start in range(0, len(order), 8):
        domains = [ITEMS[i].domain for i in order[start : start + 8]]
        assert len(set(domains[:4])) == len(set(domains[4:])) == 1 and domains[0] != domains[4]
    random.seed(0)
    again = build_sampler("RandomDomainSampler", data_source=ITEMS, batch_size=8, n_domain=2)
    assert list(again) == order
    everything = build_sampler("RandomDomainSampler", data_source=ITEMS, batch_size=6, n_domain=0)
    assert len(everything) == len(list(everything)) == 60  # 20 images of each of 3 domains, 2 of each a batch
    with pytest.raises(UserError, match="not a multiple"):
        build_sampler("RandomDomainSampler", data_source=ITEMS, batch_size=7, n_domain=2)


def test_sequential_domain_sampler():
    order = list(build_sampler("SeqDomainSampler", data_source=ITEMS, batch_size=6))
    assert [ITEMS[i].domain for i in order] == list("aabbcc") * 10 and len(set(order)) == 60


def test_random_class_sampler():
    sampler = build_sampler("RandomClassSampler", data_source=ITEMS, batch_size=6, n_ins=3)
    order = list(sampler)
    assert len(order) % 6 == 0 and len(order) > 0
    for start in range(0, len(order), 6):
        counts = Counter(ITEMS[i].label for i in order[start : start + 6])
        assert sorted(counts.values()) == [3, 3]
    few = [Item(0, "a"), Item(1, "a"), Item(1, "a"), Item(1, "a")]
    order = list(build_sampler("RandomClassSampler", data_source=few, batch_size=4, n_ins=2))
    assert [i for i in order if i == 0] == [0, 0]  # the only image of its class is drawn repeatedly
    with pytest.raises(UserError, match="must not be smaller"):
        build_sampler("RandomClassSampler", data_source=few, batch_size=1, n_ins=2)
    with pytest.raises(UserError, match="only 2"):
        build_sampler("RandomClassSampler", data_source=few, batch_size=6, n_ins=2)


def test_unknown_sampler():
    with pytest.raises(UserError, match='unknown sampler "Randomsampler" .did you mean "RandomSampler"'):
        build_sampler("Randomsampler", data_source=ITEMS)


# Data sets


def test_names_that_other_peoples_files_set(image_root):
    """Upstream's private ones, which its readers and trainers of noisy labels write."""
    item = Datum(str(image_root / "test_0_0.png"), label=1, classname="one")
    item._label, item._classname = 3, "three"
    assert (item.label, item.classname) == (3, "three")

    class Reader(DatasetBase):
        def __init__(self):
            super().__init__(train_x=[item], test=[item])
            self._num_classes, self._lab2cname, self._classnames = 5, {3: "three", 4: "four"}, ["three", "four"]
            self._val = [item]

    reader = Reader()
    assert (reader.num_classes, reader.classnames, reader.lab2cname[4]) == (5, ["three", "four"], "four")
    assert reader.val == reader.train_x == [item]


def test_datum(image_root):
    path = str(image_root / "test_0_0.png")
    item = Datum(path, 3, 1, "red")
    assert (item.impath, item.label, item.domain, item.classname) == (path, 3, 1, "red")
    with pytest.raises(MissingFileError, match="nowhere.png"):
        Datum("nowhere.png")
    with pytest.raises(TypeError, match="label of .* should be int, not '3'"):
        Datum(path, "3")


def test_dataset_base(cfg):
    dataset = build_dataset(cfg)
    assert (dataset.num_classes, dataset.classnames) == (3, ["red", "green", "blue"])
    shuffled = DatasetBase(train_x=dataset.train_x[10:] + dataset.train_x[:5], test=dataset.test)
    assert (shuffled.num_classes, shuffled.classnames) == (3, ["red", "blue"])  # largest label + 1; names by label
    assert list(dataset.split_dataset_by_label(shuffled.train_x)) == [2, 0]
    assert {key: len(items) for key, items in dataset.split_dataset_by_domain(dataset.train_x).items()} == {0: 9, 1: 6}
    dataset.is_input_domain_valid(["odd"])
    with pytest.raises(UserError, match='unknown domain "strange" of ToyColours'):
        dataset.is_input_domain_valid(["odd", "strange"])
    with pytest.raises(UserError, match="no training images"):
        DatasetBase(train_x=[], test=dataset.test)


def test_few_shot_draws(cfg, capsys):
    dataset = build_dataset(cfg)
    source = dataset.train_x[5:] + dataset.train_x[:2]  # two classes of 5 images, then one of 2
    random.seed(9)
    drawn = dataset.generate_fewshot_dataset(source, num_shots=3)
    assert "Creating a 3-shot dataset" in capsys.readouterr().out
    random.seed(9)
    assert drawn == random.sample(source[:5], 3) + random.sample(source[5:10], 3) + source[10:]
    repeated = dataset.generate_fewshot_dataset(source, num_shots=3, repeat=True)
    assert Counter(item.label for item in repeated) == {0: 3, 1: 3, 2: 3}
    assert dataset.generate_fewshot_dataset(source, num_shots=-1) is source
    assert dataset.generate_fewshot_dataset(source, dataset.test, num_shots=0) == (source, dataset.test)
    two = dataset.generate_fewshot_dataset(source, dataset.test, num_shots=1)
    assert [len(part) for part in two] == [3, 3]
