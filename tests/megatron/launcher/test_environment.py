"""What a rank finds in its environment, and what never leaves this host."""

import pytest

from megatron.launcher.environment import (
    accelerator_variables,
    forwarded_variables,
    rank_variables,
    scheduler_rank_variables,
    thread_variables,
)


@pytest.mark.parametrize(
    "name",
    [
        "WANDB_API_KEY",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MY_PASSWORD",
        "HOME",
        "SSH_AUTH_SOCK",
    ],
)
def test_secrets_stay_here(name: str) -> None:
    assert forwarded_variables({name: "canary"}) == {}


@pytest.mark.parametrize(
    "name",
    ["OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_DEBUG", "PYTHONPATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"],
)
def test_what_ranks_need_travels(name: str) -> None:
    assert forwarded_variables({name: "a b"}) == {name: "a b"}


def test_names_are_matched_whole() -> None:
    assert forwarded_variables({"PATH_TO_KEY": "x", "XOMP_NUM_THREADS": "1"}) == {}


def test_rank_variables_are_torchs() -> None:
    values = rank_variables(
        rank=3, local_rank=1, world_size=4, local_world_size=2, master_addr="10.0.0.1", master_port=29500
    )
    assert values == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
    }


def test_threads_are_shared_unless_chosen() -> None:
    assert thread_variables({}, cores=8, local_ranks=3) == {"OMP_NUM_THREADS": "2"}
    assert thread_variables({}, cores=2, local_ranks=4) == {"OMP_NUM_THREADS": "1"}
    assert thread_variables({"OMP_NUM_THREADS": "5"}, cores=8, local_ranks=2) == {}


def test_ranks_of_schedulers() -> None:
    slurm = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    assert scheduler_rank_variables(slurm) == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert scheduler_rank_variables({**slurm, "RANK": "0"}) == {}
    name = "OMPI_COMM_WORLD"
    mpi = {f"{name}_RANK": "1", f"{name}_SIZE": "4", f"{name}_LOCAL_RANK": "1", f"{name}_LOCAL_SIZE": "2"}
    assert scheduler_rank_variables(mpi)["LOCAL_WORLD_SIZE"] == "2"


def test_a_slurm_batch_script_is_one_process() -> None:
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0", "SLURM_NTASKS_PER_NODE": "4"}
    assert scheduler_rank_variables(batch) == {}


def test_deepspeed_is_told_of_a_machine_without_accelerators() -> None:
    assert accelerator_variables({}, []) == {"DS_ACCELERATOR": "cpu"}
    assert accelerator_variables({}, ["0"]) == {}
    assert accelerator_variables({"DS_ACCELERATOR": "xpu"}, []) == {}
