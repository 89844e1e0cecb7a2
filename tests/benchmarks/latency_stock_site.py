"""Stock side of the latency benchmark: a warm executor in place of a Python process started for each message.

Flower's own executor would start one and import the app each time; that costs seconds more and is not compared here.
"""

import sys
import time
from pathlib import Path

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from latency_payload import answer

POLL_SECONDS = 0.2
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def client(address, interceptor):
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def handle(address, token, site):
    runtime = client(address, RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
    heartbeat.start()
    message, context, _, _ = pull_task_input(runtime)
    (array,) = message.content["arrays"].to_numpy_ndarrays()
    content = {"arrays": ArrayRecord([answer(array, site)]), "metrics": MetricRecord({"num-examples": 100})}
    push_message(runtime, Message(RecordDict(content), reply_to=message), context)
    push_task_output(runtime, context, SubStatus.COMPLETED, "")
    heartbeat.stop()
    runtime.close()


def main(address, secret, site):
    acquirer = client(
        address,
        SuperExecAuthHttpInterceptor(
            master_secret=Path(secret).read_bytes(), protected_methods=frozenset({ACQUIRE})
        ),
    )
    while True:
        answered = acquirer.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
        if answered.HasField("task") and answered.token:
            handle(address, answered.token, int(site))
        else:
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
