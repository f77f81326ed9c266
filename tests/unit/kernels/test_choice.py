"""Which kernels are chosen, and what is said of it."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.config import KERNEL_VARIABLES
from engine.errors import LoadError
from engine.kernels import build, choice
from engine.kernels.build import BuildSettings
from engine.kernels.choice import choose_kernels
from engine.kernels.instruction_sets import PORTABLE
from server.options import unknown_variables

CPU = torch.device("cpu")


def test_another_device_gets_the_references() -> None:
    assert choose_kernels(torch.device("meta"), torch.bfloat16, 1, {}).name == "torch reference"


def test_references_can_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_kernels(CPU, torch.bfloat16, 1, {"DELTALOOP_KERNELS": "reference"}).name == "torch reference"
    assert not caplog.records
    with pytest.raises(LoadError, match="DELTALOOP_KERNELS"):
        choose_kernels(CPU, torch.bfloat16, 1, {"DELTALOOP_KERNELS": "fast"})


def test_without_a_compiler_there_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    environment = {
        "CXX": "no-such-compiler",
        "DELTALOOP_KERNELS_CACHE": str(tmp_path),
        "DELTALOOP_KERNELS_DIR": "/none",
    }
    assert choose_kernels(CPU, torch.bfloat16, 1, environment).name == "torch reference"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no-such-compiler" in record.getMessage()
    assert "much slower" in record.getMessage()


@pytest.mark.parametrize("name", ["avx9", "amx"])
def test_an_instruction_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(choice, "usable_sets", lambda: (PORTABLE,))
    with pytest.raises(LoadError, match=f"DELTALOOP_ISA={name}: this processor runs portable"):
        choose_kernels(CPU, torch.bfloat16, 1, {"DELTALOOP_ISA": name})


def test_a_library_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = BuildSettings.read
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "none.cpp").write_text("")

    def settings(environment: dict[str, str]) -> BuildSettings:
        return replace(read(environment), sources=tmp_path / "csrc")

    monkeypatch.setattr(BuildSettings, "read", settings)
    environment = {"DELTALOOP_KERNELS_CACHE": str(tmp_path), "DELTALOOP_KERNELS_DIR": "/none"}
    assert choose_kernels(CPU, torch.bfloat16, 1, environment).name == "torch reference"
    assert "much slower" in caplog.text


def test_the_variables_are_known_to_the_command() -> None:
    sources = "".join(path.read_text("utf-8") for path in (Path(choice.__file__), Path(build.__file__)))
    assert set(re.findall(r"DELTALOOP_\w+", sources)) == set(KERNEL_VARIABLES)
    assert not unknown_variables(dict.fromkeys(KERNEL_VARIABLES, "x"))
