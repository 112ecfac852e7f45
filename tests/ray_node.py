"""One more node of a Ray cluster: `python ray_node.py ADDRESS CPUS FOLDER`; it ends with this process.

As `ray start --address` does, which refuses it where Ray keeps to loopback: with that switch Ray takes Linux
for a system on which clusters are not supported.
"""

import sys
import threading

from ray._private.node import Node
from ray._private.parameter import RayParams

from citybrain.platform.ray_head import free_port

if __name__ == "__main__":
    address, cpus, folder = sys.argv[1:]
    Node(
        RayParams(
            gcs_address=address, node_ip_address="127.0.0.1", num_cpus=int(cpus), num_gpus=0,
            object_store_memory=100 << 20, temp_dir=folder, node_manager_port=0,
            min_worker_port=0, max_worker_port=0, include_log_monitor=False,
            dashboard_agent_listen_port=free_port(), metrics_export_port=free_port(),
        ),
        head=False, shutdown_at_exit=True, spawn_reaper=True,
    )  # fmt: skip
    print("ready", flush=True)
    threading.Event().wait()
