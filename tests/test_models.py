import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_models import put_in_hf_cache, tiny_bert, tiny_distilbert

from nbhelpers import models
from nbhelpers.errors import ModelNotFoundError
from nbhelpers.models import PACKAGED, PackagedModel, fastest_dtype, find_model

TEXTS = ["the striker scored a goal", "shares fell on the market"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"), TEXTS)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return root


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that carries `some-org/some-model`, and fails when it is imported."""
    folder = tmp_path / "site" / "carries_a_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(folder.parent))
    sha256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"  # of b"weights"
    entry = PackagedModel("carries_a_model", "model/model.safetensors", sha256)
    monkeypatch.setitem(PACKAGED, "some-org/some-model", entry)
    return folder / "model"


# Paths


def test_a_folder_is_found_as_it_is(bert: Path) -> None:
    assert find_model(bert) == find_model(str(bert)) == bert.resolve()


def test_a_relative_path_starts_at_the_repository_too(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "repository_root", lambda: bert.parent)
    assert find_model(bert.name) == bert.resolve()


def test_a_gguf_file_and_a_folder_with_one_lead_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.Q4.gguf"
    file.write_bytes(b"GGUF")
    assert find_model(file) == find_model(str(tmp_path)) == file.resolve()


def test_weights_in_shards_are_complete_only_with_every_shard(tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (tmp_path / shards[0]).touch()
    with pytest.raises(ModelNotFoundError, match="not all its weights"):
        find_model(tmp_path)
    (tmp_path / shards[1]).touch()
    assert find_model(tmp_path) == tmp_path.resolve()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": ', encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match="not all its weights"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no config.json and no .gguf file"),
        (["config.json"], "not all its weights"),
        (["a.gguf", "b.gguf"], "holds 2 .gguf files: give the path of one"),
    ],
)
def test_a_folder_without_a_whole_model_says_what_is_missing(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        (tmp_path / file).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match=message):
        find_model(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match="is not a model"):
        find_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["", "  ", "/no/such/folder", "./models/mine", "~/nothing-here", "mine.gguf", "a/b/c"])
def test_a_path_that_is_not_there_is_never_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_from_hub", lambda repo_id: pytest.fail(f"asked for {repo_id!r}"))
    with pytest.raises(ModelNotFoundError, match="There is no model at"):
        find_model(name)


# The cache


@pytest.mark.parametrize("repo_id", ["distilbert-base-uncased", "some-org/Some.Model-v2"])
def test_an_id_is_found_in_the_cache_and_loads_offline(
    repo_id: str, bert: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = put_in_hf_cache(bert, repo_id, cache)
    assert find_model(repo_id) == snapshot


def test_hf_home_is_honoured_in_a_fresh_process_and_transformers_loads_the_same_id(tmp_path: Path) -> None:
    home = tmp_path / "home"
    snapshot = put_in_hf_cache(tiny_distilbert(tmp_path / "made", TEXTS), "distilbert-base-uncased", home / "hub")
    code = (
        "from nbhelpers.models import find_model\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "name = 'distilbert-base-uncased'\n"
        "model, tokenizer = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)\n"
        "print(find_model(name), type(model).__name__, len(tokenizer))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(models.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    words = done.stdout.split()
    assert words[:2] == [str(snapshot), "DistilBertModel"], done.stderr
    assert int(words[2]) > 100


def test_a_model_is_found_under_its_new_id_where_the_old_one_is_asked_for(bert: Path, cache: Path) -> None:
    snapshot = put_in_hf_cache(bert, "distilbert/distilbert-base-uncased", cache)
    assert find_model("distilbert-base-uncased") == snapshot


def test_a_cache_with_the_config_alone_is_passed_over(bert: Path, cache: Path, package: Path) -> None:
    snapshot = put_in_hf_cache(bert, "some-org/some-model", cache)
    assert find_model("some-org/some-model") == snapshot, "the cache comes before the package"
    (snapshot / "model.safetensors").unlink()
    assert find_model("some-org/some-model") == package


# Packages


@pytest.mark.parametrize("name", ["some-org/some-model", "Some-Org/Some-Model"])
def test_a_packaged_model_is_found_without_importing_its_package(name: str, cache: Path, package: Path) -> None:
    assert find_model(name) == package
    assert "carries_a_model" not in sys.modules


def test_a_packaged_gguf_file_is_found_as_a_file(cache: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(package / "model.safetensors", package / "m.gguf")
    entry = PackagedModel("carries_a_model", "model/m.gguf", PACKAGED["some-org/some-model"].sha256)
    monkeypatch.setitem(PACKAGED, "some-org/some-model", entry)
    assert find_model("some-org/some-model") == package / "m.gguf"


def test_packaged_weights_that_changed_are_refused_even_after_they_were_right(cache: Path, package: Path) -> None:
    find_model("some-org/some-model")
    (package / "model.safetensors").write_bytes(b"Weights")
    os.utime(package / "model.safetensors", ns=(1, 1))
    with pytest.raises(ModelNotFoundError, match="expected checksum: reinstall"):
        find_model("some-org/some-model")


def test_a_checksum_is_computed_once(cache: Path, package: Path) -> None:
    before = models._sha256.cache_info()
    find_model("some-org/some-model")
    find_model("some-org/some-model")
    after = models._sha256.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


@pytest.mark.parametrize("full", list(PACKAGED))
def test_short_names_lead_to_the_packaged_models(full: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_in_package", lambda repo_id: Path("/found") / repo_id)
    assert find_model(full.split("/")[1]) == Path("/found") / full
    assert find_model(full.split("/")[1].lower()) == Path("/found") / full


@pytest.mark.parametrize("name", list(PACKAGED))
def test_the_packaged_models_that_make_setup_installs_have_their_checksums(name: str, cache: Path) -> None:
    found = find_model(name)
    assert found.suffix == ".gguf" or (found / "tokenizer.json").is_file()


# The hub


@pytest.mark.parametrize("name", ["no-such-model", "no-org/no-model"])
def test_offline_an_unknown_id_fails_at_once_and_says_where_it_was_sought(name: str, cache: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError) as caught:
        find_model(name)
    assert time.monotonic() - start < 3
    assert f"{name!r} is no folder here and is not in the Hugging Face cache" in str(caught.value)
    assert "check the name and the network" in str(caught.value)


def test_offline_a_packaged_model_that_is_not_installed_names_its_package(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGED, "some-org/absent", PackagedModel("not_installed_here", "m/model.safetensors", ""))
    with pytest.raises(ModelNotFoundError, match="install the package not-installed-here"):
        find_model("some-org/absent")


@pytest.mark.parametrize("name", ["has spaces", "ends-with-.", "org/with,comma"])
def test_a_name_that_can_be_no_id_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is no model: give an existing folder"):
        find_model(name)


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub for one repository, one gated one, and nothing else."""

    repositories: dict[str, Path] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012
    commit = "a" * 40

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.asked.append(path)
        for repo_id, folder in self.repositories.items():
            if path in (f"api/models/{repo_id}", f"api/models/{repo_id}/revision/main"):
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                return self.send_json({"id": repo_id, "sha": self.commit, "siblings": files})
            if path.startswith(f"api/models/{repo_id}/tree/"):
                tree = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "b" * 40}
                    for file in folder.iterdir()
                ]
                return self.send_json(tree)
            prefix = f"{repo_id}/resolve/{self.commit}/"
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                return self.send_body((folder / path.removeprefix(prefix)).read_bytes())
        if "gated" in path:
            return self.send_json({"error": "gated"}, status=403, headers={"X-Error-Code": "GatedRepo"})
        return self.send_json({"error": "none"}, status=404, headers={"X-Error-Code": "RepoNotFound"})

    def send_json(self, content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_body(json.dumps(content).encode(), status=status, headers=headers)

    def send_body(self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = {"ETag": f'"{len(body):040x}"', "X-Repo-Commit": self.commit, "Content-Length": str(len(body))}
        for name, value in (etag | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, as HF_ENDPOINT would name one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Hub, "repositories", {})
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub
    server.shutdown()
    server.server_close()


def test_the_hub_gives_config_tokenizer_and_weights_and_no_code(
    hub: type[Hub], bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(bert, tmp_path / "source")
    for extra in ("modeling_own.py", "pytorch_model.bin", "tf_model.h5", "README.md"):
        (source / extra).write_text("x", encoding="utf-8")
    hub.repositories["some-org/online"] = source
    found = find_model("some-org/online")
    assert {file.name for file in found.iterdir()} == {file.name for file in bert.iterdir()}
    assert (found / "model.safetensors").read_bytes() == (bert / "model.safetensors").read_bytes()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert find_model("some-org/online") == found, "the second time it is in the cache"
    assert len(hub.asked) == asked


def test_the_hub_gives_old_weights_where_there_are_no_safetensors(hub: type[Hub], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in ("config.json", "pytorch_model.bin", "vocab.txt"):
        (source / file).write_text("{}", encoding="utf-8")
    hub.repositories["some-org/old"] = source
    assert {file.name for file in find_model("some-org/old").iterdir()} == {
        "config.json", "pytorch_model.bin", "vocab.txt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some-org/mistyped", "the hub knows no such public model: is the name mistyped"),
        ("some-org/gated", "is gated: accept its licence"),
        ("some-org/quantized", "holds no weights that transformers loads"),
    ],
)
def test_what_the_hub_does_not_give_is_explained(hub: type[Hub], tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "quantized").mkdir()
    (tmp_path / "quantized" / "model.Q4.gguf").touch()
    hub.repositories["some-org/quantized"] = tmp_path / "quantized"
    with pytest.raises(ModelNotFoundError, match=message):
        find_model(name)


def test_a_hub_that_nobody_answers_for_is_given_up_within_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch, unused_address: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", unused_address)
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match="could not be reached"):
        find_model("some-org/some-name")
    assert time.monotonic() - start < 5


@pytest.fixture
def unused_address() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


# The number type


def test_the_fastest_type_is_one_of_two_and_measured_once() -> None:
    import torch

    fastest_dtype.cache_clear()
    first = fastest_dtype()
    assert first in (torch.float32, torch.bfloat16)
    start = time.monotonic()
    assert fastest_dtype() is first
    assert time.monotonic() - start < 0.01


@pytest.mark.parametrize(
    ("slow", "fastest"), [("torch.bfloat16", "torch.float32"), ("torch.float32", "torch.bfloat16")]
)
def test_the_type_whose_products_take_longer_is_not_chosen(
    slow: str, fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def product(a: torch.Tensor, b: torch.Tensor) -> None:
        time.sleep(0.02 if str(a.dtype) == slow else 0.001)

    monkeypatch.setattr(torch, "mm", product)
    fastest_dtype.cache_clear()
    assert str(fastest_dtype()) == fastest
    fastest_dtype.cache_clear()


def test_a_machine_that_is_busy_for_a_moment_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    products = []

    def product(a: torch.Tensor, b: torch.Tensor) -> None:
        products.append(a.dtype)
        busy = 7 < len(products) <= 14
        time.sleep(0.03 if busy else 0.01 if a.dtype == torch.float32 else 0.001)

    monkeypatch.setattr(torch, "mm", product)
    fastest_dtype.cache_clear()
    assert fastest_dtype() is torch.bfloat16
    fastest_dtype.cache_clear()


def test_importing_the_module_loads_no_library() -> None:
    code = "import sys, nbhelpers.models; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(models.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "set()"
