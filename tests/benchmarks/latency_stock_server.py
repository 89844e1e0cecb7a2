"""Stock side of the latency benchmark: Flower's FedAvg on one array; notes when each round began."""

import json
import time
from itertools import pairwise
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from latency_payload import first

app = ServerApp()


class Timed(FedAvg):
    """Notes the moment each round begins."""

    def configure_train(self, server_round, arrays, config, grid):
        self.began.append(time.time())
        return super().configure_train(server_round, arrays, config, grid)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write how many seconds each took."""
    config = context.run_config
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    strategy.began = []
    arrays = ArrayRecord([first(int(config["bytes"]))])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]), timeout=600)
    moments = [*strategy.began, time.time()]
    seconds = [after - before for before, after in pairwise(moments)]
    Path(str(config["out"])).write_text(json.dumps(seconds))
