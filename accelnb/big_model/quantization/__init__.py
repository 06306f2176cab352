"""Models whose linear layers keep their weights in 8 or 4 bits: by bitsandbytes, or by torchao.

`bnb_config` and `torchao_config` say how, `left_out` which layers stay as they are, `device_map`
where all of them go. `loading` then goes through a model layer by layer (`filling`), once it is
seen that the values which `sources` finds are the model's (`fitting`). `bnb_layers` and
`torchao_layers` know the packages.
"""
