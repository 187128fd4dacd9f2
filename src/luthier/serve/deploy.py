"""Files that put a model into service with vLLM: its command line, Docker Compose, Kubernetes.

All say the same flags, those of `Job.arguments`. The API key stands in none of them: it comes from the environment, or
from a secret of the cluster. Nobody in the container is root, and a model is mounted so that it can only be read.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from luthier.serve.vllm import KEY, Adapter, Job

IMAGE = "vllm/vllm-openai:v0.33.0"
PORT = 8000
USER = 2000
"""Not root. vLLM needs a home that it can write, which is a volume of its own."""
HOME = "/home/vllm"
PLACES = {"HOME": HOME, "USER": "vllm", "HF_HOME": f"{HOME}/hub"}
"""Environment. torch asks for a user's name, and this one is in no list of users."""
MODELS = "/models"
STARTUP_MINUTES = 30
"""A large model is read from a slow disk in that time."""


@dataclass(frozen=True)
class Deployment:
    """What is put into service.

    Attributes:
        name: of the service; letters, digits and hyphens.
        job: the model with its adapters, as paths on this machine.
        system: the system message that clients have to send, because it was trained.
        memory: bytes of weights, for the memory that is asked for.
    """

    name: str
    job: Job
    system: str | None = None
    memory: int = 0

    @property
    def label(self) -> str:
        """The name as Kubernetes takes it (RFC 1123)."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:50] or "model"

    @property
    def mounts(self) -> dict[str, str]:
        """Folders of this machine, by where they lie in the container; a model from the hub has none."""
        found = {f"{MODELS}/{name}": adapter.folder for name, adapter in self.job.adapters.items()}
        if not self._from_hub:
            found[f"{MODELS}/{self.job.name}"] = self.job.model
        return found

    @property
    def _from_hub(self) -> bool:
        return self.job.revision is not None

    @property
    def inside(self) -> Job:
        """The job with its paths as they are in the container."""
        adapters = {name: Adapter(f"{MODELS}/{name}", one.config) for name, one in self.job.adapters.items()}
        trained = f"{MODELS}/{next(iter(adapters), self.job.name)}"
        return replace(
            self.job,
            model=self.job.model if self._from_hub else f"{MODELS}/{self.job.name}",
            adapters=adapters,
            tokenizer=trained if self.job.tokenizer else None,
            template=f"{trained}/chat_template.jinja" if self.job.template else None,
        )


def command_line(deployment: Deployment) -> str:
    """A shell script that starts vLLM on this machine, for this machine alone."""
    words = ["vllm", "serve", *deployment.job.arguments("127.0.0.1", PORT)]
    lines = " \\\n  ".join(_pairs(words))
    return (
        "#!/bin/sh\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f"# Serves {deployment.name} with vLLM 0.33 or later. For other machines: --host 0.0.0.0, and an API key in\n"
        f"# {KEY}, for example {KEY}=$(openssl rand -hex 32).\n"
        f"exec {lines}\n"
    )


def _pairs(words: list[str]) -> list[str]:
    """A flag and its values on one line each."""
    lines = [" ".join(words[:3])]
    for word in words[3:]:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += " " + shlex.quote(word)
    return lines


def compose(deployment: Deployment) -> str:
    """A file for Docker Compose."""
    gpu = {"driver": "nvidia", "count": deployment.job.gpus, "capabilities": ["gpu"]}
    service = {
        "image": IMAGE,
        "command": deployment.inside.arguments("0.0.0.0", PORT),  # noqa: S104 - inside the container
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "environment": {KEY: f"${{{KEY}:?set it: openssl rand -hex 32}}", **PLACES},
        "volumes": [
            *({"type": "bind", "source": source, "target": target, "read_only": True}
              for target, source in deployment.mounts.items()),
            {"type": "volume", "source": "home", "target": HOME},
        ],
        "user": f"{USER}:{USER}",
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "ipc": "private",
        "shm_size": "2gb",
        "restart": "unless-stopped",
        "stop_grace_period": "2m",
        "deploy": {"resources": {"reservations": {"devices": [gpu]}}},
        "healthcheck": {
            "test": ["CMD", "python3", "-c", f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health')"],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{STARTUP_MINUTES}m",
        },
    }  # fmt: skip
    body = {"name": deployment.label, "services": {"vllm": service}, "volumes": {"home": {}}}
    return f"# {deployment.name} with vLLM. Start: {KEY}=... docker compose up -d\n" + _yaml(body)


def kubernetes(deployment: Deployment) -> str:
    """Manifests for Kubernetes: a claim for the models, a deployment, a service."""
    label = deployment.label
    names = {"app.kubernetes.io/name": label, "app.kubernetes.io/managed-by": "luthier"}
    meta: dict[str, Any] = {"name": label, "labels": names}
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**meta, "name": f"{label}-models"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{_gibibytes(2 * deployment.memory)}Gi"}},
        },
    }
    select = {"app.kubernetes.io/name": label}
    running = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # a GPU is rarely there twice
            "selector": {"matchLabels": select},
            "template": {"metadata": {"labels": names}, "spec": _pod(deployment)},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"selector": select, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    return "---\n".join(map(_yaml, (claim, running, service)))


def _pod(deployment: Deployment) -> dict[str, Any]:
    label, gpus = deployment.label, deployment.job.gpus
    memory = f"{_gibibytes(2 * deployment.memory) + 4}Gi"
    secret = {"name": f"{label}-api-key", "key": "key"}
    container = {
        "name": "vllm",
        "image": IMAGE,
        "args": deployment.inside.arguments("0.0.0.0", PORT),  # noqa: S104 - the service decides who reaches it
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [
            {"name": KEY, "valueFrom": {"secretKeyRef": secret}},
            *({"name": name, "value": value} for name, value in PLACES.items()),
        ],
        "startupProbe": _probe(period=10, failures=STARTUP_MINUTES * 6),
        "readinessProbe": _probe(period=5, failures=3),
        "livenessProbe": _probe(period=10, failures=6),
        "resources": {
            "requests": {"cpu": "4", "memory": memory, "nvidia.com/gpu": str(gpus)},
            "limits": {"memory": memory, "nvidia.com/gpu": str(gpus)},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "models", "mountPath": MODELS, "readOnly": True},
            {"name": "home", "mountPath": HOME},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 120,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": f"{label}-models", "readOnly": True}},
            {"name": "home", "emptyDir": {}},
            {"name": "temporary", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
        ],
    }


def _probe(*, period: int, failures: int) -> dict[str, Any]:
    get = {"path": "/health", "port": "http"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}


def _gibibytes(size: int) -> int:
    return max(1, -(-size // 2**30))


def readme(deployment: Deployment) -> str:
    """How the files beside it are used."""
    label, job = deployment.label, deployment.job
    asked = next(iter(job.adapters), job.name)
    copies = "\n".join(
        f"    kubectl cp {source} copy:{target}" for target, source in deployment.mounts.items()
    ) or "    # nothing: the model comes from the hub"  # fmt: skip
    lines = [
        f"# {deployment.name} in service",
        "",
        f"Clients ask for the model `{asked}`" + (f"; `{job.name}` is its base." if job.adapters else "."),
        "Without a temperature answers are greedy, as they were judged.",
    ]
    if deployment.system:
        lines += ["", "It was trained with this system message, which clients have to send:", ""]
        lines += [f"> {line}" for line in deployment.system.splitlines()]
    lines += [
        "", "## On this machine", "", "    sh vllm.sh",
        "", "## Docker Compose", "", f"    {KEY}=$(openssl rand -hex 32) docker compose up -d",
        "", "## Kubernetes", "",
        "The models lie on a volume, copied there once:", "",
        f"    kubectl apply -f kubernetes.yaml && kubectl scale deployment {label} --replicas=0",
        f"    kubectl create secret generic {label}-api-key --from-literal=key=$(openssl rand -hex 32)",
        "    # a pod `copy` with the claim "
        f"`{label}-models` mounted at {MODELS}, then:",
        copies,
        f"    kubectl delete pod copy && kubectl scale deployment {label} --replicas=1",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _yaml(body: Mapping[str, Any]) -> str:
    return yaml.safe_dump(body, sort_keys=False, width=10_000)


DEPLOYMENTS: dict[str, tuple[str, Callable[[Deployment], str]]] = {
    "vllm": ("vllm.sh", command_line),
    "compose": ("compose.yaml", compose),
    "kubernetes": ("kubernetes.yaml", kubernetes),
}
"""What can be asked for: the file, and who writes it."""
