"""Our side of the latency benchmark: the hospital's executor with an answer that needs neither training nor gate."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from latency_payload import answer

from f2b_client.app import SiteApp
from f2b_client.executor import execute
from f2b_client.handover import FILE
from f2b_client.settings import SiteFolder

if __name__ == "__main__":
    folder, number = SiteFolder(Path(sys.argv[1])), int(sys.argv[2])
    app = SiteApp(
        lambda payload: SimpleNamespace(payload=answer(np.frombuffer(payload, np.float32), number).tobytes())
    )
    execute(folder.state / FILE, app, should_stop=lambda: False, on_idle=lambda: None)
