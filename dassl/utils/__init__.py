"""Utilities under the import path of the lineage."""

from dassl.command_line import errors_in_one_line

from .environment import collect_env_info, set_random_seed, use_deterministic_algorithms
from .errors import (
    BadTypeError,
    BadValueError,
    MismatchError,
    MissingFileError,
    UnknownKeyError,
    UnknownNameError,
    UnreadableFileError,
    UnwritableFileError,
    UserError,
    one_line,
)
from .files import (
    check_isfile,
    file_digest,
    file_sha256,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    write_bytes_atomically,
    write_json,
    write_text_atomically,
)
from .images import MAX_ASPECT_RATIO, MAX_PIXELS, image_suffixes, images_below, is_image_name, read_image
from .logger import Logger, setup_logger
from .meters import AverageMeter, MetricMeter
from .names import check_availability, get_most_similar_str_to_a_from_b
from .progress import print_above_bar, progress_bar
from .registry import Registry
from .safe_text import in_csv, in_latex, in_markdown, printable, printable_json, printable_lines
from .tools import download_url, tolist_if_not
from .torchtools import (
    adjust_learning_rate,
    count_num_param,
    init_network_weights,
    load_checkpoint,
    load_pretrained_weights,
    open_all_layers,
    open_specified_layers,
    resume_from_checkpoint,
    save_checkpoint,
    set_bn_to_eval,
)
