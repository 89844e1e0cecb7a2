"""The machine half of the doctor: disk, keys, memory, GPU, versions, processes, databases."""

from f2b_client.doctor.finding import Check
from f2b_client.doctor.machine_clock import check_time_service
from f2b_client.doctor.machine_disk import check_file_system, check_space, check_speed, check_writable
from f2b_client.doctor.machine_gpu import check_gpu
from f2b_client.doctor.machine_memory import check_memory, check_open_files, check_threads
from f2b_client.doctor.machine_permissions import check_homes, check_keys, check_privacy_of_folder
from f2b_client.doctor.machine_processes import check_one_client
from f2b_client.doctor.machine_records import check_databases
from f2b_client.doctor.machine_software import check_versions, check_weights

MACHINE_CHECKS: tuple[Check, ...] = (
    check_space,
    check_writable,
    check_speed,
    check_file_system,
    check_keys,
    check_privacy_of_folder,
    check_homes,
    check_memory,
    check_open_files,
    check_threads,
    check_gpu,
    check_versions,
    check_weights,
    check_one_client,
    check_databases,
    check_time_service,
)
"""What can be told without the network."""
