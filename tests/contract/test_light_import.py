"""The contract is light: whoever imports it pays for numpy and no more."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "flwr", "sklearn", "matplotlib", "opacus", "rembg", "shap", "pandas")


@pytest.mark.parametrize(
    "modules",
    [
        "face2bone_model.contract.{bundle,errors,fingerprint,keys,payload,reply,request,settings_table,statistics,"
        "study,update}",
        "face2bone_model.system.{command,files,processes}",
        "f2b_server.{aggregate,certificates,checkpoint,collect,enrolment,federation,progress,results,rounds,settings,"
        "study_files}",
        "f2b_client.{settings,keys,join,approval,receipts,replies,state}",
    ],
    ids=["contract", "system", "server", "client"],
)
def test_a_fresh_interpreter_imports_it_without_heavy_libraries(modules):
    package, names = modules.rstrip("}").split(".{")
    imports = "; ".join(f"import {package}.{name}" for name in names.split(","))
    code = f"{imports}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
