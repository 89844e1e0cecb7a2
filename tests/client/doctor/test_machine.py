"""The machine's faults, each seeded for real where a test can: files, modes, users, processes, locks, databases."""

import fcntl
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from f2b_client.approval import approve
from f2b_client.doctor import machine_disk
from f2b_client.doctor.finding import Verdict
from f2b_client.doctor.machine import MACHINE_CHECKS
from f2b_client.doctor.machine_clock import ClockFacts, check_time_service, read_clock
from f2b_client.doctor.machine_disk import (
    check_file_system,
    check_inodes,
    check_space,
    check_speed,
    check_writable,
)
from f2b_client.doctor.machine_gpu import GpuFacts, check_gpu, read_gpu
from f2b_client.doctor.machine_memory import (
    MemoryFacts,
    check_memory,
    check_open_files,
    check_threads,
    read_memory,
)
from f2b_client.doctor.machine_permissions import check_homes, check_keys, check_privacy_of_folder
from f2b_client.doctor.machine_processes import check_one_client
from f2b_client.doctor.machine_records import check_databases
from f2b_client.doctor.machine_software import check_versions, check_weights, judge_versions
from f2b_client.join import POLICY_TEMPLATE, SITE_TEMPLATE
from f2b_client.keys import make_keys
from f2b_client.receipts import SCHEMA, durable_database
from f2b_client.settings import SiteFolder, load_policy
from f2b_client.site_lock import only_one
from f2b_client.state import State, write_state

NOBODY = 65_534
GB = 1_000_000_000
LINUX_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")


@pytest.fixture
def folder(tmp_path):
    site = SiteFolder(tmp_path / "site")
    site.path.mkdir()
    site.state.mkdir()
    make_keys(site)
    site.settings.write_text(SITE_TEMPLATE.format(site="harbour"), encoding="utf-8")
    site.policy.write_text(POLICY_TEMPLATE, encoding="utf-8")
    return site


@pytest.fixture
def open_folder(folder):
    """The same site where other users of the machine can reach it, as in /srv."""
    top = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folder is closed to others
    top.chmod(0o755)
    moved = SiteFolder(top / "site")
    shutil.copytree(folder.path, moved.path)
    yield moved
    shutil.rmtree(top)


@contextmanager
def as_nobody():
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def give_to_nobody(site):
    for path in (site.path, *site.path.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


def bad(findings):
    return [finding for finding in findings if finding.verdict is not Verdict.PASS]


def assert_only(findings, check, verdict, words):
    """Exactly one thing is not well, it is this, and it says how to mend it."""
    found = bad(findings)
    assert [(f.check, f.verdict) for f in found] == [(check, verdict)], found
    assert words in f"{found[0].what} {found[0].mend}"
    assert len(found[0].mend) > 10
    return found[0]


def assert_well(findings):
    findings = list(findings)
    assert bad(findings) == []
    assert findings


def set_compute(folder, **values):
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    folder.settings.write_text(f"[compute]\n{lines}", encoding="utf-8")


# No false alarm


def test_a_site_that_is_well_gives_no_alarm_quickly(folder, tmp_path):
    approve_a_study(folder, tmp_path)
    began = time.monotonic()
    for check in MACHINE_CHECKS:
        assert_well(check(folder))
    assert time.monotonic() - began < 10


def approve_a_study(folder, tmp_path):
    """One that uses the seeded random trunk, so that no weights are needed."""
    text = (Path(__file__).parents[3] / "deploy" / "study.toml").read_text(encoding="utf-8")
    text = re.sub(r'(?m)^trunk_name = "[^"]*"', 'trunk_name = "random"', text)
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    approve(folder, path, load_policy(folder))


def test_the_checks_leave_nothing_behind(folder):
    write_a_receipt(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()}
    for check in MACHINE_CHECKS:
        list(check(folder))
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()} == before


# Disk


def test_a_full_disk_is_found(folder):
    free = shutil.disk_usage(folder.path).free
    assert_only(check_space(folder, need=free * 2), "disk-space", Verdict.FAIL, "at least")
    assert_only(check_space(folder, need=1, comfortable=free * 2), "disk-space", Verdict.WARN, "are free")


def statvfs(files, free):
    return os.statvfs_result((4096, 4096, 1, 1, 1, files, free, free, 0, 255))


def test_a_disk_full_of_files_is_found():
    assert_only(check_inodes(statvfs(10**6, 12), "/s"), "disk-files", Verdict.FAIL, "room for 12 more files")
    assert_only(check_inodes(statvfs(10**6, 5000), "/s"), "disk-files", Verdict.WARN, "5000 more")
    assert_well(check_inodes(statvfs(0, 0), "/s"))  # file systems that make inodes as needed


def test_a_slow_disk_is_measured(folder):
    assert_only(check_speed(folder, slow=0.0), "disk-speed", Verdict.WARN, "durable write takes")
    assert_only(check_speed(folder, slow=0.0, stuck=0.0), "disk-speed", Verdict.FAIL, "local SSD")


def test_a_disk_that_takes_no_trial_file_is_found():
    """/proc stands for a disk mounted read-only: nobody writes there, not even root."""
    assert_only(check_speed(SiteFolder(Path("/proc"))), "disk-speed", Verdict.FAIL, "cannot be written")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "CIFS"])
def test_a_network_file_system_is_a_warning(folder, kind):
    mounts = [("/", "ext4"), (str(folder.path.parent), kind), ("/elsewhere", "ext4")]
    assert_only(check_file_system(folder, mounts=mounts), "file-system", Verdict.WARN, kind.lower())
    assert_well(check_file_system(folder, mounts=[("/", "ext4"), (f"{folder.path}-other", kind)]))


def test_the_mounts_of_this_machine_name_the_file_system_of_proc():
    assert machine_disk._type_of(Path("/proc/self"), machine_disk._mounts()) == "proc"


@LINUX_ROOT
def test_a_folder_the_client_may_not_write_in_is_named(open_folder):
    (open_folder.path / "replies").mkdir()
    give_to_nobody(open_folder)
    with as_nobody():
        assert_well(check_writable(open_folder))
    os.chown(open_folder.path / "replies", 0, 0)
    with as_nobody():
        finding = assert_only(
            check_writable(open_folder), "writable", Verdict.FAIL, "may not write in replies/"
        )
    assert finding.where == str(open_folder.path / "replies")


# Keys and folders


@pytest.mark.parametrize("name", ["node", "receipts"])
def test_a_key_that_others_may_read_is_found(folder, name):
    (folder.keys / name).chmod(0o640)
    assert_only(check_keys(folder), "key-permissions", Verdict.FAIL, f"chmod 600 {folder.keys / name}")


def test_a_missing_key_is_found(folder):
    (folder.keys / "receipts").unlink()
    assert_only(check_keys(folder), "keys", Verdict.FAIL, "receipts cannot be read: No such file")


@LINUX_ROOT
def test_a_key_of_another_user_is_found(open_folder):
    give_to_nobody(open_folder)
    assert {(f.check, f.verdict) for f in bad(check_keys(open_folder))} == {("key-owner", Verdict.WARN)}
    with as_nobody():
        assert_well(check_keys(open_folder))
    os.chown(open_folder.keys / "node", 1, 1)
    with as_nobody():
        assert_only(check_keys(open_folder), "key-owner", Verdict.FAIL, "belongs to user 1")


@pytest.mark.parametrize("name", ["node", "receipts"])
def test_a_damaged_key_is_found(folder, name):
    path = folder.keys / name
    path.write_bytes(path.read_bytes()[:60])
    assert_only(check_keys(folder), "key-damaged", Verdict.FAIL, "backup")


def test_a_public_key_that_is_not_the_private_ones_is_found(folder, tmp_path):
    other = SiteFolder(tmp_path / "other")
    make_keys(other)
    shutil.copy(other.keys / "node.pub", folder.keys / "node.pub")
    assert_only(check_keys(folder), "key-pair", Verdict.FAIL, "another key")


def test_a_key_of_another_kind_is_found(folder):
    key = Ed25519PrivateKey.generate()
    (folder.keys / "node").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder.keys / "node.pub").write_bytes(
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )
    assert_only(check_keys(folder), "key-pair", Verdict.FAIL, "does not belong")


def test_faces_that_any_user_may_read_are_a_warning_and_a_policy_anyone_may_change_a_failure(open_folder):
    open_folder.path.chmod(0o755)
    assert_only(check_privacy_of_folder(open_folder), "folder-private", Verdict.WARN, "faces included")
    open_folder.path.chmod(0o777)
    assert_only(check_privacy_of_folder(open_folder), "folder-private", Verdict.FAIL, "may change")
    open_folder.path.chmod(0o750)
    assert_well(check_privacy_of_folder(open_folder))


def test_an_open_folder_behind_a_closed_one_is_no_alarm(open_folder):
    open_folder.path.chmod(0o777)
    open_folder.path.parent.chmod(0o700)
    assert_well(check_privacy_of_folder(open_folder))


def test_a_home_that_is_missing_is_a_warning(folder, tmp_path):
    found = check_homes(folder, environment={"HOME": "/nonexistent"})
    assert_only(found, "home", Verdict.WARN, "Set HOME")
    assert_only(check_homes(folder, environment={}), "home", Verdict.WARN, "missing")
    assert_well(check_homes(folder, environment={"HOME": str(tmp_path)}))


def test_a_flower_folder_that_cannot_be_written_to_is_found(folder, tmp_path):
    (folder.path / "flower").write_text("a file, not a folder")
    found = check_homes(folder, environment={"HOME": str(tmp_path)})
    assert_only(found, "flower-home", Verdict.FAIL, "Remove")


# Memory, files, processors


def memory(total=16 * GB, available=12 * GB, limit=None):
    return MemoryFacts(total=total, available=available, limit=limit)


def test_too_little_memory_is_found(folder):
    assert_well(check_memory(folder, facts=memory()))
    assert_only(check_memory(folder, facts=memory(available=GB)), "memory", Verdict.WARN, "1.0 GB of 16 GB")
    assert_only(check_memory(folder, facts=memory(total=GB)), "memory", Verdict.FAIL, "larger machine")
    assert_only(check_memory(folder, facts=memory(limit=GB)), "memory-limit", Verdict.FAIL, "MemoryMax=")


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/pod/x\n", {"pod/x/memory.max": "max", "pod/memory.max": "500000000"}, 500_000_000),
        ("0::/\n", {"memory.max": "700000000\n"}, 700_000_000),
        ("0::/gone/from/here\n", {"memory.max": "600000000"}, 600_000_000),  # as seen from inside a container
        (
            "4:memory:/docker/abc\n1:cpu:/\n0::/\n",
            {"memory/docker/abc/memory.limit_in_bytes": "400000000"},
            400_000_000,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/a\n", {"a/memory.max": "max"}, None),
        (None, {}, None),
    ],
)
def test_the_limit_of_a_container_or_service_is_read(tmp_path, groups, files, limit):
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    facts = read_memory(tmp_path / "cgroup", tmp_path / "own")
    assert facts.limit == limit
    assert 0 < facts.available <= facts.total


def test_too_few_open_files_are_found(folder):
    assert_only(check_open_files(folder, limit=64), "open-files", Verdict.FAIL, "LimitNOFILE")
    assert_only(check_open_files(folder, limit=512), "open-files", Verdict.WARN, "512 files")
    assert_well(check_open_files(folder, limit=-1))  # no limit


def test_more_threads_than_processors_are_a_warning(folder):
    set_compute(folder, threads=5000)
    assert_only(check_threads(folder), "threads", Verdict.WARN, "5000 threads")
    folder.settings.write_text("[compute]\nthreads = 'many'\n")
    assert_only(check_threads(folder), "threads", Verdict.FAIL, "Correct site.toml")


# GPU


def gpu(**changes):
    facts = {
        "present": True,
        "built_for": "13.0",
        "usable": True,
        "free_bytes": 20 * GB,
        "total_bytes": 24 * GB,
    }
    return GpuFacts(**{**facts, **changes})


OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.mark.parametrize(
    ("facts", "check", "words"),
    [
        (
            gpu(present=False, usable=False, fault="Found no NVIDIA driver"),
            "gpu",
            "asked for and there is none",
        ),
        (gpu(usable=False, fault=OLD), "gpu-driver", "too old for torch, built for CUDA 13.0"),
        (gpu(usable=False, built_for=""), "gpu", "built without CUDA"),
        (gpu(usable=False, fault="CUDA unknown error"), "gpu", "CUDA unknown error"),
        (gpu(free_bytes=GB), "gpu-taken", "1.0 GB of the GPU's 24 GB are free"),
    ],
)
def test_a_gpu_that_was_asked_for_and_cannot_serve_is_a_failure(folder, facts, check, words):
    set_compute(folder, device="cuda")
    assert_only(check_gpu(folder, facts=facts), check, Verdict.FAIL, words)
    set_compute(folder, device="auto")
    found = bad(check_gpu(folder, facts=facts))
    assert [f.verdict for f in found] == ([Verdict.WARN] if facts.present else [])


def test_a_gpu_that_serves_is_well_and_a_processor_may_be_asked_for(folder):
    set_compute(folder, device="cuda:0")
    assert_well(check_gpu(folder, facts=gpu()))
    set_compute(folder, device="cpu")
    assert_well(check_gpu(folder))
    set_compute(folder, device="gpu")
    assert_only(check_gpu(folder), "gpu", Verdict.FAIL, "'gpu' is not a device")


def test_torch_says_whether_there_is_a_gpu():
    import torch

    facts = read_gpu()
    assert facts.usable == torch.cuda.is_available()
    assert facts.usable or facts.fault


# Versions, weights


INSTALLED = {"flwr": "1.41.0", "numpy": "2.3.1"}


def version_of(name):
    try:
        return INSTALLED[name]
    except KeyError:
        raise metadata.PackageNotFoundError(name) from None


@pytest.mark.parametrize(
    ("requirement", "verdict", "words"),
    [
        ("flwr==1.40.0", Verdict.FAIL, "flwr is 1.41.0; the release asks for ==1.40.0"),
        ("numpy>=2.4", Verdict.WARN, "numpy is 2.3.1"),
        ("kan>=1", Verdict.FAIL, "kan is not installed"),
    ],
)
def test_libraries_of_other_versions_are_named(requirement, verdict, words):
    found = judge_versions(">=3.11", "3.11.7", [requirement, "numpy>=2"], version_of)
    assert_only(found, "versions", verdict, words)


def test_another_python_is_named_and_optional_libraries_are_not_asked_for():
    assert_only(judge_versions(">=3.12", "3.11.7", [], version_of), "python", Verdict.FAIL, "Python 3.11.7")
    optional = 'pytest>=9; extra == "dev"'
    assert_well(
        judge_versions("", "3.11.7", [optional, 'x; python_version < "3"', "flwr==1.41.0"], version_of)
    )


def test_what_is_installed_here_fits(folder):
    assert_well(check_versions(folder))


def test_weights_without_the_background_network_are_a_warning(folder):
    folder.settings.write_text('[weights]\nfolder = "weights"\n')
    (folder.path / "weights").mkdir()
    (folder.path / "weights" / "facenet-x.safetensors").write_bytes(b"")
    assert_only(check_weights(folder), "weights", Verdict.WARN, "ellipse")
    (folder.path / "weights" / "u2netp.onnx").write_bytes(b"")
    assert_well(check_weights(folder))


def test_weights_that_are_missing_are_found(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("F2B_WEIGHTS", raising=False)
    assert_only(check_weights(folder), "weights", Verdict.WARN, "no pretrained weights")
    study = tmp_path / "study.toml"
    shutil.copy(Path(__file__).parents[3] / "deploy" / "study.toml", study)
    approve(folder, study, load_policy(folder))
    assert_only(check_weights(folder), "weights", Verdict.FAIL, "The trunk an approved study needs")
    folder.settings.write_text("[weights]\nfolder = 3\n")
    assert_only(check_weights(folder), "weights", Verdict.FAIL, "site.toml")


# Processes


@contextmanager
def supernode(key):
    """A process with a SuperNode's command line; it stands for one, as only the command line is looked at."""
    command = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(60)"]
    process = subprocess.Popen([*command, "--auth-supernode-private-key", key], stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_supernode_left_over_by_a_client_that_was_killed_is_found(folder):
    with supernode(str(folder.keys / "node")) as process:
        assert_only(check_one_client(folder), "one-client", Verdict.FAIL, f"kill {process.pid}")
    assert_well(check_one_client(folder))


def test_a_client_that_runs_and_its_own_supernode_are_well(folder):
    with only_one(folder), supernode(str(folder.keys / "node")):
        assert_well(check_one_client(folder))


def test_a_second_client_with_a_copy_of_the_key_is_found(folder, tmp_path):
    copy = tmp_path / "copy-of-key"
    shutil.copy(folder.keys / "node", copy)
    with supervisor_elsewhere(folder), supernode(str(copy)) as process:
        finding = assert_only(check_one_client(folder), "one-client", Verdict.FAIL, "A second client")
        assert str(process.pid) in finding.what


@contextmanager
def supervisor_elsewhere(folder):
    """Another process that holds the site's lock, as a running client does."""
    lines = f"""
        from pathlib import Path
        from f2b_client.settings import SiteFolder
        from f2b_client.site_lock import only_one
        with only_one(SiteFolder(Path({str(folder.path)!r}))):
            print("held", flush=True)
            input()
    """
    code = "\n".join(line.strip() if "    print" not in line and "    input" not in line else "  " + line.strip()
                     for line in lines.strip().splitlines())  # fmt: skip
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_supernode_of_another_site_is_none_of_ours(folder, tmp_path):
    other = SiteFolder(tmp_path / "other")
    make_keys(other)
    with supernode(str(other.keys / "node")):
        assert_well(check_one_client(folder))


def test_a_client_that_ended_without_saying_so_is_a_warning(folder):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_state(folder, "supervisor", State(doing="connected"))
    path = folder.state / "supervisor.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": ended.pid}))
    assert_only(check_one_client(folder), "one-client", Verdict.WARN, "while connected")
    write_state(folder, "supervisor", State(doing="stopped"))
    assert_well(check_one_client(folder))


def test_looking_does_not_keep_a_client_from_starting(folder):
    list(check_one_client(folder))
    with only_one(folder), (folder.state / "running.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)


# Databases


def write_a_receipt(folder):
    with durable_database(folder.receipts, SCHEMA) as connection:
        connection.execute("INSERT INTO receipts VALUES (1, 'body', x'00')")


def test_whole_databases_are_well(folder):
    assert_well(check_databases(folder))
    write_a_receipt(folder)
    assert_well(check_databases(folder))


@pytest.mark.parametrize("name", ["receipts.db", "ledger.db"])
def test_a_database_that_is_none_is_found(folder, name):
    (folder.path / name).write_bytes(b"not a database " * 500)
    finding = assert_only(check_databases(folder), "databases", Verdict.FAIL, f"{name} is damaged")
    assert finding.where.endswith(name)


def test_a_database_with_a_page_overwritten_is_found(folder):
    with closing(sqlite3.connect(folder.receipts)) as connection:
        connection.execute(SCHEMA)
        rows = ((number, "body " * 100, b"s") for number in range(500))
        connection.executemany("INSERT INTO receipts VALUES (?, ?, ?)", rows)
        connection.commit()
    content = bytearray(folder.receipts.read_bytes())
    content[5 * 4096 : 6 * 4096] = os.urandom(4096)
    folder.receipts.write_bytes(content)
    assert_only(check_databases(folder), "databases", Verdict.FAIL, "is damaged")


def test_a_database_another_program_holds_locked_is_found(folder):
    with closing(sqlite3.connect(folder.ledger)) as connection:
        connection.execute("CREATE TABLE charges (number INTEGER)")
        connection.commit()
        connection.execute("BEGIN EXCLUSIVE")
        assert_only(check_databases(folder), "databases", Verdict.FAIL, "holds ledger.db locked")


# Clock


def test_a_clock_nothing_keeps_is_a_warning_on_a_machine_of_its_own(folder):
    unkept = ClockFacts(synchronised=False, keeps_its_own=True)
    assert_only(check_time_service(folder, facts=unkept), "time-service", Verdict.WARN, "timedatectl")
    for synchronised, own in ((True, True), (False, False), (None, True)):
        assert_well(
            check_time_service(folder, facts=ClockFacts(synchronised=synchronised, keeps_its_own=own))
        )
    assert read_clock().synchronised in {True, False, None}
