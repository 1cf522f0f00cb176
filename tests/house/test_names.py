"""One word means one thing: no two files of the product define a class or a function of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict

from import_graph import ROOT, modules

SAME_EVERYWHERE = {"main", "run", "draw", "make_parser", "parse_args"}
"""What each program, or each kind of figure, is asked for by."""
OTHER_PEOPLES = {"build_model", "add_config", "extend_cfg", "reset_cfg"}
"""Names of the CoOp repositories."""
STANDALONE = "deploy.standalone_script"
"""Is copied into exports and runs without the project, so it repeats what it needs."""


def test_no_two_files_define_the_same_name():
    found = defaultdict(list)
    for module, path in modules(ROOT).items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    allowed = SAME_EVERYWHERE | OTHER_PEOPLES
    twice = {name: set(files) - {STANDALONE} for name, files in found.items() if name not in allowed}
    assert not {name: files for name, files in twice.items() if len(files) > 1}
