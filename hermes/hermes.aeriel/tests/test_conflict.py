import subprocess
import sys

IMPORT = "import sys; sys.path.append(sys.argv[1]); import hermes.aeriel"


def import_beside(folder):
    return subprocess.run(
        [sys.executable, "-c", IMPORT, folder], capture_output=True, text=True
    )


def test_import_beside_ml4gw_hermes_is_refused(tmp_path):
    dist_info = tmp_path / "ml4gw_hermes-0.2.0.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ml4gw-hermes\nVersion: 0.2.0\n"
    )
    imported = import_beside(tmp_path)
    assert imported.returncode != 0
    assert "ImportError: ml4gw-hermes 0.2.0 is installed" in imported.stderr


def test_import_without_it_is_silent(tmp_path):
    imported = import_beside(tmp_path)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout == imported.stderr == ""
