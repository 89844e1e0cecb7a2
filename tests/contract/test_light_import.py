"""The contract is light: whoever imports it pays for numpy and no more."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "flwr", "sklearn", "matplotlib", "opacus", "rembg", "shap", "pandas")


@pytest.mark.parametrize(
    "modules",
    [
        "face2bone_model.contract.{archive,bundle,enrolment,errors,fingerprint,keys,payload,policy,release,reply,request,settings_table,"
        "statistics,study,update}",
        "face2bone_model.system.{command,files,lock,ports,processes}",
        "f2b_server.{aggregate,certificates,checkpoint,collect,enrolment,federation,kits,progress,renewal,results,roster,"
        "rounds,settings,standing,study_files,tokens}",
        "f2b_server.strategies.{choice,outliers,strategy}",
        "f2b_server.registry.{catalogue,release}",
        "f2b_client.{settings,keys,join,enrol,models,approval,receipts,replies,state}",
    ],
    ids=["contract", "system", "server", "strategies", "registry", "client"],
)
def test_a_fresh_interpreter_imports_it_without_heavy_libraries(modules):
    package, names = modules.rstrip("}").split(".{")
    imports = "; ".join(f"import {package}.{name}" for name in names.split(","))
    code = f"{imports}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
