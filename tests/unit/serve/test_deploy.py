"""The files that put a model into service: true to their schemas, the same flags in each, no key in any."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from luthier.serve.deploy import Deployment, command_line, compose, kubernetes, readme
from luthier.serve.vllm import RANKS, Adapter, Job

LORA = {"peft_type": "LORA", "r": 24, "bias": "none", "use_dora": False, "init_lora_weights": True}
ADAPTER = Deployment(
    "Support JSON!",
    Job("Qwen/Qwen3-0.6B", "base", "bfloat16", 40960, {"support": Adapter("../model", LORA)}, "../model",
        "../model/chat_template.jinja", "abc123", gpus=2),
    "You turn tickets into JSON.",
    3 * 2**30,
)  # fmt: skip
WHOLE = Deployment("tiny", Job("../model", "tiny", "float32", 256, template="../model/chat_template.jinja"))
BOTH = pytest.mark.parametrize("deployment", [ADAPTER, WHOLE], ids=["adapter", "whole"])


def flags(words: list[str]) -> dict[str, list[str]]:
    """Flags with their values; the model stands under ''."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = []
        else:
            found[name].append(word)
    return found


def script(deployment: Deployment) -> list[str]:
    text = command_line(deployment).partition("exec ")[2].replace("\\\n", " ")
    return shlex.split(text)[2:]


def pod(deployment: Deployment) -> Any:
    manifests = list(yaml.safe_load_all(kubernetes(deployment)))
    return next(m for m in manifests if m["kind"] == "Deployment")["spec"]["template"]["spec"]


def test_an_adapter_is_served_beside_its_base() -> None:
    found = flags(script(ADAPTER))
    assert found[""] == ["Qwen/Qwen3-0.6B"]
    assert found["--revision"] == ["abc123"]
    assert found["--served-model-name"] == ["base"]
    assert found["--enable-lora"] == []
    assert found["--max-lora-rank"] == ["32"]  # the least that vLLM has above 24
    assert found["--lora-modules"] == ["support=../model"]
    assert found["--tokenizer"] == ["../model"]
    assert found["--chat-template"] == ["../model/chat_template.jinja"]
    assert found["--dtype"] == ["bfloat16"]
    assert found["--max-model-len"] == ["40960"]
    assert found["--tensor-parallel-size"] == ["2"]
    assert found["--override-generation-config"] == ['{"temperature": 0.0}']
    assert found["--host"] == ["127.0.0.1"]


def test_a_whole_model_has_no_flags_of_adapters() -> None:
    found = flags(script(WHOLE))
    assert found[""] == ["../model"]
    assert found["--served-model-name"] == ["tiny"]
    assert not any("lora" in name for name in found)


@BOTH
def test_the_script_is_one_that_a_shell_can_read(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "vllm.sh").write_text(command_line(deployment))
    (tmp_path / "vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "vllm").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", tmp_path / "vllm.sh"], env=path, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["serve", *script(deployment)]


@BOTH
def test_the_flags_are_the_same_everywhere(deployment: Deployment) -> None:
    ours = flags(script(deployment))
    for words in (
        yaml.safe_load(compose(deployment))["services"]["vllm"]["command"],
        pod(deployment)["containers"][0]["args"],
    ):
        theirs = flags(words)
        assert theirs.keys() == ours.keys()
        for name in ours.keys() - {"", "--host", "--lora-modules", "--tokenizer", "--chat-template"}:
            assert theirs[name] == ours[name]
        assert theirs["--host"] == ["0.0.0.0"]
        assert theirs["--chat-template"][0].startswith("/models/")
        if deployment is ADAPTER:
            assert theirs["--lora-modules"] == ["support=/models/support"]
            assert theirs[""] == ["Qwen/Qwen3-0.6B"]
        else:
            assert theirs[""] == ["/models/tiny"]


@BOTH
@pytest.mark.parametrize("version", ["1.27", "1.31", "1.34"])
def test_the_manifests_fit_the_schema_of_kubernetes(deployment: Deployment, version: str) -> None:
    kinds = []
    for manifest in yaml.safe_load_all(kubernetes(deployment)):
        kubernetes_validate.validate(manifest, version, strict=True)
        kinds.append(manifest["kind"])
    assert kinds == ["PersistentVolumeClaim", "Deployment", "Service"]
    broken = next(m for m in yaml.safe_load_all(kubernetes(deployment)) if m["kind"] == "Deployment")
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


@BOTH
def test_the_pod_is_watched_limited_and_not_root(deployment: Deployment) -> None:
    spec = pod(deployment)
    container = spec["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 600  # a large model takes minutes to load
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    gpus = str(deployment.job.gpus)
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
        == gpus
    )
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["models"]["readOnly"] is True
    assert {volume["name"] for volume in spec["volumes"]} == mounts.keys()
    key = next(one for one in container["env"] if one["name"] == "VLLM_API_KEY")
    assert key["valueFrom"]["secretKeyRef"]["name"].endswith("-api-key")
    assert "value" not in key


TEXTS = {"type": "array", "items": {"type": "string"}}
SERVICE: Any = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "command"],
    "properties": {
        "image": {"type": "string"},
        "command": TEXTS,
        "ports": TEXTS,
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
        "volumes": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "source", "target"],
                "properties": {
                    "type": {"enum": ["bind", "volume", "tmpfs"]},
                    "source": {"type": "string"},
                    "target": {"type": "string", "pattern": "^/"},
                    "read_only": {"type": "boolean"},
                },
            },
        },
        "user": {"type": "string"},
        "security_opt": TEXTS,
        "cap_drop": TEXTS,
        "ipc": {"type": "string"},
        "shm_size": {"type": ["string", "number"]},
        "restart": {"type": "string"},
        "stop_grace_period": {"type": "string", "pattern": "^([0-9]+[hms])+$"},
        "deploy": {"type": "object"},
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "test": TEXTS,
                "retries": {"type": "number"},
                **{
                    name: {"type": "string", "pattern": "^([0-9]+[hms])+$"}
                    for name in ("interval", "timeout", "start_period")
                },
            },
        },
    },
}
"""What of the Compose Specification a service of ours may have, with the types it gives."""


@BOTH
def test_the_compose_file_fits_the_specification(deployment: Deployment) -> None:
    body = yaml.safe_load(compose(deployment))
    assert body.keys() == {"name", "services", "volumes"}
    service = body["services"]["vllm"]
    jsonschema.validate(service, SERVICE)
    device = service["deploy"]["resources"]["reservations"]["devices"][0]
    assert device == {"driver": "nvidia", "count": deployment.job.gpus, "capabilities": ["gpu"]}
    assert service["user"] != "0:0"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    bound = [volume for volume in service["volumes"] if volume["type"] == "bind"]
    assert [volume["source"] for volume in bound] == ["../model"]
    assert all(volume["read_only"] for volume in bound)
    assert "${VLLM_API_KEY:?" in service["environment"]["VLLM_API_KEY"]


def test_the_page_says_what_clients_need_to_know() -> None:
    page = readme(ADAPTER)
    assert "> You turn tickets into JSON." in page
    assert "`support`; `base` is its base" in page
    assert "support-json-api-key" in page
    assert ADAPTER.label == "support-json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"peft_type": "IA3"}, "no place for IA3"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "begin with pissa"),
        ({"rank_pattern": {"q_proj": 600}}, "largest rank is 512"),
    ],
)
def test_an_adapter_that_vllm_would_get_wrong_is_refused(change: Any, reason: str) -> None:
    assert Adapter("x", LORA).refused() is None
    assert reason in str(Adapter("x", LORA | change).refused())


@pytest.mark.parametrize("rank", [1, 2, 8, 9, 64, 65, 512])
def test_the_rank_is_one_that_vllm_takes(rank: int) -> None:
    job = Job("m", "base", "float32", 1, {"a": Adapter("a", LORA | {"r": rank}), "b": Adapter("b", LORA | {"r": 1})})
    assert job.max_rank in RANKS
    assert rank <= job.max_rank < 2 * max(rank, 5)
