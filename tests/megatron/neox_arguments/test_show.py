"""The printed configuration: values, where they came from, what follows, and what changes nothing."""

from megatron.neox_arguments.show import describe


def line_of(text, key):
    return next(" ".join(line.split()) for line in text.splitlines() if line.split()[:1] == [key])


def test_values_come_with_their_place(load):
    text = describe(load(save="runs/a", checkpoint_factor=10))
    assert line_of(text, "hidden_size") == "hidden_size 64 test.yml:2"
    assert line_of(text, "norm") == "norm layernorm default"
    assert line_of(text, "save") == "save runs/a test.yml:9"
    assert line_of(text, "windows") == "windows 4 x 256 computed"
    assert "hostfile" not in text


def test_every_line_stands_alone(load):
    text = describe(load(separator_token_ids=..., separators=".\n"))
    assert line_of(text, "prompt_end") == 'prompt_end "\\n" default'
    assert '[".", "\\n"]' in text


def test_the_layout_table(load):
    text = describe(load(pipe_parallel_size=2, model_parallel_size=2, num_gpus=8))
    assert "8 processes = 2 pipeline x 2 data x 1 context x 2 tensor, ZeRO stage 1" in text
    rows = [line.split() for line in text.splitlines() if len(line.split()) == 5 and line.strip()[0].isdigit()]
    assert rows == [[str(r), str(r // 4), str(r // 2 % 2), "0", str(r % 2)] for r in range(8)]
    text = describe(load(context_parallel_size=2, model_parallel_size=2, num_gpus=8))
    rows = [line.split() for line in text.splitlines() if len(line.split()) == 5 and line.strip()[0].isdigit()]
    assert rows == [[str(r), "0", str(r // 4), str(r // 2 % 2), str(r % 2)] for r in range(8)]
    assert "(16 more" in describe(load(num_gpus=32))


def test_keys_without_effect_say_so(load):
    text = describe(load(layernorm_fusion=True, BATCH_ADAPTIVE_INIT_POS=True))
    assert "layernorm_fusion (test.yml:9) no effect: kernels are chosen by what the machine has" in text
    assert "BATCH_ADAPTIVE_INIT_POS (test.yml:10) no effect" in text
    assert "no effect" not in describe(load())


def test_tokens_are_counted(load):
    assert line_of(describe(load(train_iters=10)), "tokens").startswith("tokens per step 256")
    assert "2,560" in describe(load(train_iters=10))
