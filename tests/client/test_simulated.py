"""A simulated hospital keeps the walls of a real one."""

from flwr.app import ConfigRecord, Context, Message, RecordDict

from f2b_client.simulated import SimulatedSites, site_folders


def message():
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 3
    return Message(RecordDict({"x": ConfigRecord()}), 5, "query")


def test_a_fault_leaves_as_its_number_and_names_no_folder(tmp_path):
    config = {"study-folder": str(tmp_path / "secret-place")}
    context = Context(
        run_id=2, node_id=5, node_config={"partition-id": 0}, state=RecordDict(), run_config=config
    )
    reply = SimulatedSites()(message(), context)
    assert reply.error.reason == "99"


def test_hospitals_are_known_by_their_place_in_the_alphabet(tmp_path):
    (tmp_path / "simulation.json").write_text('{"sites": {"south": "/b", "north": "/a"}}')
    assert [str(folder) for folder in site_folders(tmp_path)] == ["/a", "/b"]
