"""Packages that are taken from where they are, and those that are not."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from hermes.aeriel.errors import InstallFailed
from hermes.aeriel.serve import _packages
from hermes.aeriel.serve._extras import EXTRAS, extras_needed, platforms
from hermes.aeriel.serve._manifest import SOURCES
from hermes.aeriel.serve._packages import (
    Pin,
    check_extras,
    lay_out,
    lay_out_extra,
    read_pins,
)

PYTHONS = [(3, 11), (3, 12), (3, 13)]


def make_package(site: Path, name: str, version: str, **metadata: str) -> Path:
    """Install one, as pip does; return its module."""
    module = site / name / "__init__.py"
    info = site / f"{name}-{version}.dist-info"
    for path, text in {
        module: f"# {name}",
        site / name / "unneeded.h": "",
        info / "METADATA": f"Name: {name}\nVersion: {version}\n",
        **{info / file: text for file, text in metadata.items()},
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    files = [path for path in site.rglob("*") if path.is_file()]
    lines = [
        f"{path.relative_to(site)},sha256=x,{path.stat().st_size}"
        for path in files
    ]
    lines += [f"../../bin/{name},,", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(lines))
    return module


class Here:
    """A folder with packages, one to fill, and what had to be downloaded."""

    def __init__(self, root: Path) -> None:
        self.source = root / "source"
        self.site = root / "site"
        self.downloads: list[str] = []

    def lay_out(self, *pins: Pin) -> None:
        lay_out([pins], self.site, [str(self.source)], self.downloads.extend)

    def lay_out_extra(self, name: str) -> None:
        lay_out_extra(
            name,
            (3, 11),
            self.site,
            [str(self.source)],
            self.downloads.extend,
        )


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


ONE = Pin("one", "1.0")


def test_a_package_that_is_here_is_taken_and_not_copied(here: Here) -> None:
    module = make_package(here.source, "one", "1.0")
    here.lay_out(ONE)
    assert here.downloads == []
    assert (here.site / "one" / "__init__.py").samefile(module)
    found = {path.name for path in here.site.rglob("*") if path.is_file()}
    assert found == {"__init__.py", "METADATA", "RECORD"}


def test_names_are_told_apart_as_pip_does(here: Here) -> None:
    make_package(here.source, "Two_Words", "1.0")
    here.lay_out(Pin("two-words", "1.0"))
    assert here.downloads == []


def test_another_version_is_downloaded(here: Here) -> None:
    make_package(here.source, "one", "1.0.1")
    here.lay_out(ONE)
    assert here.downloads == ["one==1.0"]
    assert not here.site.exists()


def test_a_build_of_the_version_is_the_version(here: Here) -> None:
    make_package(here.source, "one", "1.0+cu132")
    here.lay_out(ONE)
    assert here.downloads == []


@pytest.mark.parametrize("change", ["longer than before", None])
def test_a_package_that_was_changed_is_not_taken(
    here: Here, change: str | None
) -> None:
    module = make_package(here.source, "one", "1.0")
    module.write_text(change) if change else module.unlink()
    here.lay_out(ONE)
    assert here.downloads == ["one==1.0"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("INSTALLER", "conda\n"),
        ("direct_url.json", '{"dir_info": {"editable": true}}'),
    ],
)
def test_a_package_with_files_elsewhere_is_not_taken(
    here: Here, file: str, text: str
) -> None:
    make_package(here.source, "one", "1.0", **{file: text})
    here.lay_out(ONE)
    assert here.downloads == ["one==1.0"]


def test_a_package_of_nobodys_is_not_taken(here: Here) -> None:
    make_package(here.source, "one", "1.0")
    (here.source / "one-1.0.dist-info" / "RECORD").unlink()
    here.lay_out(ONE)
    assert here.downloads == ["one==1.0"]


def test_files_are_copied_where_they_cannot_have_two_names(
    tmp_path: Path,
) -> None:
    """The kernel refuses a second name of what is on another file system."""
    version = Path("/proc/version")
    _packages._link(version, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == version.read_text()


def test_packages_of_a_namespace_share_files(here: Here) -> None:
    make_package(here.source, "one", "1.0")
    (here.source / "two-2.0.dist-info").mkdir()
    for name in ("METADATA", "RECORD"):
        text = (here.source / "one-1.0.dist-info" / name).read_text()
        text = text.replace("one-1.0", "two-2.0").replace("e: one", "e: two")
        (here.source / "two-2.0.dist-info" / name).write_text(
            text.replace("n: 1.0", "n: 2.0")
        )
    for pin in (ONE, Pin("two", "2.0")):
        here.lay_out(pin)
    assert here.downloads == []


def test_of_alternatives_the_one_that_is_here_is_taken(here: Here) -> None:
    other = Pin("other", "1.0")
    here.lay_out(ONE, other)
    assert here.downloads == ["other==1.0"]
    make_package(here.source, "one", "1.0")
    here.lay_out(ONE, other)
    assert here.downloads == ["other==1.0"]


def test_a_torch_for_cpus_needs_no_cuda(here: Here) -> None:
    ((torch,), *_) = read_pins("pins-torch.txt", (3, 11))
    here.lay_out_extra("torch")
    assert f"torch=={torch.version}" in here.downloads
    assert any("nvidia-" in pin for pin in here.downloads)
    here.downloads.clear()
    make_package(here.source, "torch", f"{torch.version}+cpu")
    here.lay_out_extra("torch")
    assert not any("nvidia-" in pin for pin in here.downloads)


def test_an_extra_that_is_none_is_refused() -> None:
    check_extras(EXTRAS)
    told = "--with troch: there is no such extra; there are tensorflow, torch"
    with pytest.raises(InstallFailed, match=told):
        check_extras(["torch", "troch"])


@pytest.mark.parametrize("python", PYTHONS)
def test_every_line_of_pins_is_read(python: tuple[int, int]) -> None:
    plain = [str(pin) for (pin,) in read_pins("pins.txt", python)]
    numpy = "2.2.6" if python == (3, 13) else "1.26.4"
    assert [pin for pin in plain if pin.startswith("numpy")] == [
        f"numpy=={numpy}"
    ]
    for name in EXTRAS:
        text = (SOURCES / f"pins-{name}.txt").read_text()
        lines = [line for line in text.splitlines() if line[0] != "#"]
        found = read_pins(f"pins-{name}.txt", python)
        assert [" | ".join(map(str, pins)) for pins in found] == lines


def test_pins_are_what_the_lock_has() -> None:
    """What it has is taken from there, and nothing has to be downloaded."""
    for name in EXTRAS:
        for pin, *_ in read_pins(f"pins-{name}.txt", (3, 11)):
            try:
                installed = version(pin.name)
            except PackageNotFoundError:
                continue
            assert installed.partition("+")[0] == pin.version, pin.name


def write_model(root: Path, name: str, config: str, *files: str) -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)
    for file in files:
        (root / name / file).parent.mkdir(exist_ok=True)
        (root / name / file).touch()


def test_models_tell_what_they_need(tmp_path: Path) -> None:
    write_model(tmp_path, "a", 'name: "a" platform: "pytorch_libtorch"')
    write_model(tmp_path, "b", "backend:'tensorflow'")
    write_model(tmp_path, "c", "", "1/model.pt", "x/model.savedmodel")
    write_model(tmp_path, "d", 'platform: "" # "x"', "1/model.savedmodel")
    write_model(tmp_path, "e", 'platform: "onnxruntime_onnx"', "1/model.pt")
    write_model(tmp_path, "f", '# backend: "pytorch"\nbackend: "python"')
    write_model(tmp_path, "g", "", "1/model.onnx", "model.pt")
    (tmp_path / "file").touch()
    assert list(extras_needed(tmp_path)) == [
        ("a", "torch"),
        ("b", "tensorflow"),
        ("c", "torch"),
        ("d", "tensorflow"),
    ]


def test_platforms_are_tritons() -> None:
    assert platforms(()) == ("onnxruntime_onnx", "python")
    assert platforms(["torch"])[2:] == ("pytorch_libtorch",)
