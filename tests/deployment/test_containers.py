"""
Dockerfile, compose.yaml and kubernetes/: what the tools that read them say of them, and the parts of them that run without a
container. Where Docker runs, the image is built and serves.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from alphavel.websocket.settings import OptionsSettings
from tests.certificates import make_certificate
from tests.deployment.conftest import get
from tests.support import ROOT, Program, free_port, python, run, script, wait_until

LONGEST = OptionsSettings().drain_timeout


def tool(name):
    """A program of a package that is not made for each kind of machine."""
    if not Path(script(name)).exists():
        pytest.skip(f"{name} is not installed here")
    return script(name)


def instructions(name):
    """What follows the instruction, each time it comes."""
    with open(ROOT / "Dockerfile", "rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    return [step["value"] for step in structure if step["instruction"] == name]


def test_hadolint_finds_nothing_in_the_dockerfile():
    result = run(tool("hadolint"), "Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_is_built_in_stages_and_runs_as_nobody_in_particular():
    assert len(instructions("FROM")) == 2
    user, group = instructions("USER")[-1].split(":")
    assert int(user) >= 1000 <= int(group), "Kubernetes cannot tell by a name that it is not root's"


def test_what_is_copied_into_the_image_is_all_there_and_suffices_to_install(tmp_path):
    sources = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sources) == sorted(kept), ".dockerignore lets in what Dockerfile copies, and nothing else"
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / source, tmp_path / source)
    result = run(python(), "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", "out", ".", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = "\n".join(archive.namelist())
    for name in ("_writing.abi3.so", "config/websocket.yaml", "static/alphavel.js", "config/gunicorn.conf.py"):
        assert name in names


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_knows_a_server_that_serves_from_one_that_does_not(site, tls):
    """The certificate is for the server's name, and the check asks by an address."""
    names = ("ALPHAVEL_TLS_CERT", "ALPHAVEL_TLS_KEY")
    certificate = dict(zip(names, make_certificate(site.folder), strict=True)) if tls else {}
    words = instructions("HEALTHCHECK")[0]
    command = json.loads(words[words.index("[") :])

    def healthy():
        return run(*command, ALPHAVEL_WEBSOCKET_PORT=str(site.port), **certificate).returncode == 0

    assert not healthy()
    assert instructions("ENTRYPOINT") == ['["alpha"]']
    with site.serve(site.port, **certificate) as server:
        server.wait_for("auth")
        assert healthy()


def _docker_runs():
    return shutil.which("docker") is not None and run("docker", "info").returncode == 0


@pytest.mark.skipif(not _docker_runs(), reason="no Docker daemon here")
def test_the_image_serves(site):
    built = subprocess.run(["docker", "build", "-q", "-t", "alphavel:test", ROOT], check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    port = str(free_port())
    mount = f"{site.folder}:/srv/app:ro"
    options = ["--rm", "--read-only", "--tmpfs", "/run/alphavel:mode=700,uid=10001", "-v", mount]
    options += ["-p", f"127.0.0.1:{port}:9501"]
    with Program("docker", "run", *options, "alphavel:test", "websocket:serve", "--app", "shop:app") as container:
        wait_until(lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200, 60)
        assert container.stop(40) == 0


# Compose

GIVEN = {"ALPHAVEL_APP": "shop:app", "ALPHAVEL_TLS": "/etc/tls"}


@pytest.fixture(scope="module")
def composed():
    """compose.yaml as Compose itself understands it, with everything filled in."""
    result = run(tool("docker-compose"), "config", "--format", "json", **GIVEN)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_compose_asks_for_what_it_cannot_know():
    result = run(tool("docker-compose"), "config", ALPHAVEL_APP="shop:app")
    assert (result.stdout, "fullchain.pem" in result.stderr) == ("", True)


def test_compose_lint_finds_nothing_grave():
    result = run(tool("compose-lint"), "check", "--fail-on", "high", "compose.yaml")
    assert result.returncode == 0, result.stdout


def test_the_servers_believe_nginx_and_nobody_else_and_have_time_to_drain(composed):
    (subnet,) = (ipaddress.ip_network(config["subnet"]) for config in composed["networks"]["inside"]["ipam"]["config"])
    nginx = composed["services"]["nginx"]["networks"]["inside"]["ipv4_address"]
    assert ipaddress.ip_address(nginx) in subnet
    for name in ("websocket-1", "websocket-2"):
        service = composed["services"][name]
        assert service["environment"]["ALPHAVEL_TRUSTED_PROXIES"] == nginx
        assert service["read_only"] is True
        assert _seconds(service["stop_grace_period"]) > LONGEST
        assert "ports" not in service, "nobody gets past Nginx"
        assert f"server {name}:9501 " in composed["services"]["nginx"]["environment"]["ALPHAVEL_NGINX_UPSTREAMS"]


def _seconds(text):
    minutes, _, seconds = text.removesuffix("s").rpartition("m")
    return int(minutes or 0) * 60 + int(seconds)


def test_nginx_takes_the_template_with_what_compose_fills_in(site, composed):
    """As the image's entry point does it: all variables of this prefix, and no others."""
    cert, key = make_certificate(site.folder)
    given = composed["services"]["nginx"]["environment"]
    site.set(**{name: value for name, value in given.items() if name.startswith("ALPHAVEL_NGINX_")})
    site.set(ALPHAVEL_NGINX_HTTP=free_port(), ALPHAVEL_NGINX_HTTPS=free_port())
    site.set(ALPHAVEL_NGINX_CERT=cert, ALPHAVEL_NGINX_KEY=key)
    # Those names are Docker's to look up, and this Nginx goes to the background: it would hold our standard output open.
    site.set(ALPHAVEL_NGINX_UPSTREAMS="server 127.0.0.1:9501; server 127.0.0.1:9502;")
    site.set(ALPHAVEL_NGINX_ACCESS_LOG=site.folder / "access.log", ALPHAVEL_NGINX_ERROR_LOG=site.folder / "error.log")
    site.run("nginx-start")
    rendered = (site.folder / "nginx/conf.d/alphavel.conf").read_text()
    assert "ALPHAVEL_NGINX_" not in rendered
    site.run("nginx-stop")


def test_what_certbot_keeps_are_files_where_nginx_finds_them(site):
    """Its folder was to be mounted as it is: links to ../../archive, which is not in the container."""
    archive, live, tls = (site.folder / name for name in ("archive/shop", "live/shop", "tls"))
    archive.mkdir(parents=True)
    live.mkdir(parents=True)
    names = ("fullchain.pem", "privkey.pem")
    for path in make_certificate(archive, *names):
        (live / os.path.basename(path)).symlink_to(f"../../archive/shop/{os.path.basename(path)}")
    site.run("copy-certificate", ALPHAVEL_TLS=str(tls), RENEWED_LINEAGE=str(live))
    for name in names:
        assert not (tls / name).is_symlink()
        assert (tls / name).read_bytes() == (archive / name).read_bytes()


# Kubernetes


@pytest.fixture(scope="module")
def manifests():
    documents = yaml.safe_load_all((ROOT / "kubernetes/alphavel.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_the_manifests_are_what_kubernetes_takes():
    result = run(tool("kubernetes-validate"), "--strict", "kubernetes/alphavel.yaml")
    assert result.returncode == 0, result.stderr


def test_pods_have_time_to_drain_before_they_are_killed(manifests):
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    asleep = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    readiness, liveness = server["readinessProbe"], server["livenessProbe"]
    assert asleep > readiness["periodSeconds"], "proxies hear that it goes before it goes"
    assert pod["terminationGracePeriodSeconds"] > asleep + LONGEST
    patience = liveness["periodSeconds"] * liveness["failureThreshold"]
    assert patience > pod["terminationGracePeriodSeconds"], "a pod that drains answers 503 and is not to be killed for it"
    assert readiness["httpGet"]["path"] == liveness["httpGet"]["path"] == "/health"
    time_out = manifests["Ingress"]["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]
    assert int(time_out) > OptionsSettings().heartbeat_idle_time


def test_pods_run_as_the_images_user_and_are_known_by_their_labels(manifests):
    deployment = manifests["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    assert str(pod["securityContext"]["runAsUser"]) == instructions("USER")[-1].split(":")[0]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_pods_are_scaled_by_a_metric_that_there_is(manifests):
    metric = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f"`{metric}`" in (ROOT / "docs/monitoring.md").read_text()


def test_a_folder_in_a_volume_of_roots_is_the_servers_own(manifests, tmp_path):
    """What fsGroup does to an emptyDir: everybody of the group may write there, and the server's folder is below."""
    run_dir = manifests["ConfigMap"]["data"]["ALPHAVEL_RUN_DIR"]
    (server,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
    assert os.path.dirname(run_dir) in mounts
    tmp_path.chmod(0o2777)
    code = "from alphavel.foundation.running import run_dir; print(oct(run_dir().stat().st_mode & 0o777))"
    assert run(python(), "-c", code, ALPHAVEL_RUN_DIR=str(tmp_path / "server")).stdout == "0o700\n"
