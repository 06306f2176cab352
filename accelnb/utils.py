"""The names of ``accelerate.utils``, imported when they are first used.

Those of features that accelnb does not have say so when they are called (`training.not_here`).

Examples
--------
>>> from accelnb.utils import set_seed
>>> set_seed(42)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelnb.training import not_here

if TYPE_CHECKING:
    from accelnb.big_model.aligned import align_module_device as align_module_device
    from accelnb.big_model.auto_device_map import infer_auto_device_map as infer_auto_device_map
    from accelnb.big_model.device_maps import check_device_map as check_device_map
    from accelnb.big_model.device_maps import (
        check_tied_parameters_on_same_device as check_tied_parameters_on_same_device,
    )
    from accelnb.big_model.device_maps import clean_device_map as clean_device_map
    from accelnb.big_model.dtypes import CustomDtype as CustomDtype
    from accelnb.big_model.dtypes import dtype_byte_size as dtype_byte_size
    from accelnb.big_model.layerwise_casting import (
        SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING as SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING,
    )
    from accelnb.big_model.loading import load_checkpoint_in_model as load_checkpoint_in_model
    from accelnb.big_model.max_memory import get_balanced_memory as get_balanced_memory
    from accelnb.big_model.max_memory import get_max_memory as get_max_memory
    from accelnb.big_model.module_tensors import (
        get_non_persistent_buffers as get_non_persistent_buffers,
    )
    from accelnb.big_model.module_tensors import has_offloaded_params as has_offloaded_params
    from accelnb.big_model.module_tensors import named_module_tensors as named_module_tensors
    from accelnb.big_model.offloaded_files import load_offloaded_weight as load_offloaded_weight
    from accelnb.big_model.offloaded_files import offload_state_dict as offload_state_dict
    from accelnb.big_model.offloaded_files import offload_weight as offload_weight
    from accelnb.big_model.offloaded_files import save_offload_index as save_offload_index
    from accelnb.big_model.placing import set_module_tensor_to_device as set_module_tensor_to_device
    from accelnb.big_model.quantization.bnb_config import (
        BnbQuantizationConfig as BnbQuantizationConfig,
    )
    from accelnb.big_model.quantization.bnb_layers import has_4bit_bnb_layers as has_4bit_bnb_layers
    from accelnb.big_model.quantization.loading import (
        load_and_quantize_model as load_and_quantize_model,
    )
    from accelnb.big_model.quantization.torchao_config import (
        TorchaoQuantizationConfig as TorchaoQuantizationConfig,
    )
    from accelnb.big_model.sizes import calculate_maximum_sizes as calculate_maximum_sizes
    from accelnb.big_model.sizes import compute_module_sizes as compute_module_sizes
    from accelnb.big_model.sizes import (
        compute_module_total_buffer_size as compute_module_total_buffer_size,
    )
    from accelnb.big_model.sizes import convert_file_size_to_int as convert_file_size_to_int
    from accelnb.big_model.sizes import get_max_layer_size as get_max_layer_size
    from accelnb.big_model.sizes import id_tensor_storage as id_tensor_storage
    from accelnb.big_model.tied import (
        check_tied_parameters_in_config as check_tied_parameters_in_config,
    )
    from accelnb.big_model.tied import retie_parameters as retie_parameters
    from accelnb.big_model.weights_maps import OffloadedWeightsLoader as OffloadedWeightsLoader
    from accelnb.big_model.weights_maps import PrefixedDataset as PrefixedDataset
    from accelnb.big_model.weights_maps import (
        extract_submodules_state_dict as extract_submodules_state_dict,
    )
    from accelnb.options.accelerate_config import write_basic_config as write_basic_config
    from accelnb.training.accelerate_names import check_os_kernel as check_os_kernel
    from accelnb.training.accelerate_names import clear_environment as clear_environment
    from accelnb.training.accelerate_names import convert_bytes as convert_bytes
    from accelnb.training.accelerate_names import get_free_port as get_free_port
    from accelnb.training.accelerate_names import get_int_from_env as get_int_from_env
    from accelnb.training.accelerate_names import get_pretty_name as get_pretty_name
    from accelnb.training.accelerate_names import is_port_in_use as is_port_in_use
    from accelnb.training.accelerate_names import merge_dicts as merge_dicts
    from accelnb.training.accelerate_names import parse_choice_from_env as parse_choice_from_env
    from accelnb.training.accelerate_names import parse_flag_from_env as parse_flag_from_env
    from accelnb.training.accelerate_names import patch_environment as patch_environment
    from accelnb.training.accelerate_names import (
        purge_accelerate_environment as purge_accelerate_environment,
    )
    from accelnb.training.accelerate_names import recursive_getattr as recursive_getattr
    from accelnb.training.accelerate_names import str_to_bool as str_to_bool
    from accelnb.training.available import compare_versions as compare_versions
    from accelnb.training.available import is_4bit_bnb_available as is_4bit_bnb_available
    from accelnb.training.available import is_8bit_bnb_available as is_8bit_bnb_available
    from accelnb.training.available import is_aim_available as is_aim_available
    from accelnb.training.available import is_amdsmi_available as is_amdsmi_available
    from accelnb.training.available import is_bf16_available as is_bf16_available
    from accelnb.training.available import (
        is_bitsandbytes_multi_backend_available as is_bitsandbytes_multi_backend_available,
    )
    from accelnb.training.available import is_bnb_available as is_bnb_available
    from accelnb.training.available import is_boto3_available as is_boto3_available
    from accelnb.training.available import is_clearml_available as is_clearml_available
    from accelnb.training.available import is_comet_ml_available as is_comet_ml_available
    from accelnb.training.available import is_cuda_available as is_cuda_available
    from accelnb.training.available import is_datasets_available as is_datasets_available
    from accelnb.training.available import is_deepspeed_available as is_deepspeed_available
    from accelnb.training.available import is_dvclive_available as is_dvclive_available
    from accelnb.training.available import is_fp8_available as is_fp8_available
    from accelnb.training.available import is_fp16_available as is_fp16_available
    from accelnb.training.available import is_habana_gaudi1 as is_habana_gaudi1
    from accelnb.training.available import is_hpu_available as is_hpu_available
    from accelnb.training.available import is_import_timer_available as is_import_timer_available
    from accelnb.training.available import is_lomo_available as is_lomo_available
    from accelnb.training.available import is_matplotlib_available as is_matplotlib_available
    from accelnb.training.available import is_megatron_lm_available as is_megatron_lm_available
    from accelnb.training.available import is_mlflow_available as is_mlflow_available
    from accelnb.training.available import is_mlu_available as is_mlu_available
    from accelnb.training.available import is_mps_available as is_mps_available
    from accelnb.training.available import is_msamp_available as is_msamp_available
    from accelnb.training.available import is_musa_available as is_musa_available
    from accelnb.training.available import is_neuron_available as is_neuron_available
    from accelnb.training.available import is_npu_available as is_npu_available
    from accelnb.training.available import is_numpy_available as is_numpy_available
    from accelnb.training.available import is_package_available as is_package_available
    from accelnb.training.available import is_pandas_available as is_pandas_available
    from accelnb.training.available import is_peft_available as is_peft_available
    from accelnb.training.available import is_pippy_available as is_pippy_available
    from accelnb.training.available import is_pynvml_available as is_pynvml_available
    from accelnb.training.available import is_pytest_available as is_pytest_available
    from accelnb.training.available import is_rich_available as is_rich_available
    from accelnb.training.available import is_rocm_available as is_rocm_available
    from accelnb.training.available import is_sagemaker_available as is_sagemaker_available
    from accelnb.training.available import is_schedulefree_available as is_schedulefree_available
    from accelnb.training.available import is_sdaa_available as is_sdaa_available
    from accelnb.training.available import is_swanlab_available as is_swanlab_available
    from accelnb.training.available import is_tensorboard_available as is_tensorboard_available
    from accelnb.training.available import is_timm_available as is_timm_available
    from accelnb.training.available import (
        is_torch_distributed_available as is_torch_distributed_available,
    )
    from accelnb.training.available import is_torch_version as is_torch_version
    from accelnb.training.available import is_torch_xla_available as is_torch_xla_available
    from accelnb.training.available import is_torchao_available as is_torchao_available
    from accelnb.training.available import is_torchdata_available as is_torchdata_available
    from accelnb.training.available import (
        is_torchdata_stateful_dataloader_available as is_torchdata_stateful_dataloader_available,
    )
    from accelnb.training.available import is_torchvision_available as is_torchvision_available
    from accelnb.training.available import is_tqdm_available as is_tqdm_available
    from accelnb.training.available import is_trackio_available as is_trackio_available
    from accelnb.training.available import (
        is_transformer_engine_available as is_transformer_engine_available,
    )
    from accelnb.training.available import (
        is_transformer_engine_mxfp8_available as is_transformer_engine_mxfp8_available,
    )
    from accelnb.training.available import is_transformers_available as is_transformers_available
    from accelnb.training.available import is_triton_available as is_triton_available
    from accelnb.training.available import is_wandb_available as is_wandb_available
    from accelnb.training.available import is_weights_only_available as is_weights_only_available
    from accelnb.training.available import is_xccl_available as is_xccl_available
    from accelnb.training.available import is_xpu_available as is_xpu_available
    from accelnb.training.checkpoint.files import load as load
    from accelnb.training.checkpoint.files import save as save
    from accelnb.training.checkpoint.fsdp_folders import load_fsdp_model as load_fsdp_model
    from accelnb.training.checkpoint.fsdp_folders import load_fsdp_optimizer as load_fsdp_optimizer
    from accelnb.training.checkpoint.fsdp_folders import merge_fsdp_weights as merge_fsdp_weights
    from accelnb.training.checkpoint.fsdp_folders import save_fsdp_model as save_fsdp_model
    from accelnb.training.checkpoint.fsdp_folders import save_fsdp_optimizer as save_fsdp_optimizer
    from accelnb.training.checkpoint.weights import (
        clean_state_dict_for_safetensors as clean_state_dict_for_safetensors,
    )
    from accelnb.training.checkpoint.weights import find_tied_parameters as find_tied_parameters
    from accelnb.training.collectives import broadcast as broadcast
    from accelnb.training.collectives import broadcast_object_list as broadcast_object_list
    from accelnb.training.collectives import copy_tensor_to_devices as copy_tensor_to_devices
    from accelnb.training.collectives import gather as gather
    from accelnb.training.collectives import gather_object as gather_object
    from accelnb.training.collectives import wait_for_everyone as wait_for_everyone
    from accelnb.training.configuration import AORecipeKwargs as AORecipeKwargs
    from accelnb.training.configuration import AutocastKwargs as AutocastKwargs
    from accelnb.training.configuration import DataLoaderConfiguration as DataLoaderConfiguration
    from accelnb.training.configuration import (
        DistributedDataParallelKwargs as DistributedDataParallelKwargs,
    )
    from accelnb.training.configuration import (
        GradientAccumulationPlugin as GradientAccumulationPlugin,
    )
    from accelnb.training.configuration import GradScalerKwargs as GradScalerKwargs
    from accelnb.training.configuration import InitProcessGroupKwargs as InitProcessGroupKwargs
    from accelnb.training.configuration import KwargsHandler as KwargsHandler
    from accelnb.training.configuration import ProfileKwargs as ProfileKwargs
    from accelnb.training.configuration import ProjectConfiguration as ProjectConfiguration
    from accelnb.training.configuration import TorchDynamoPlugin as TorchDynamoPlugin
    from accelnb.training.constants import (
        MITA_PROFILING_AVAILABLE_PYTORCH_VERSION as MITA_PROFILING_AVAILABLE_PYTORCH_VERSION,
    )
    from accelnb.training.constants import MODEL_NAME as MODEL_NAME
    from accelnb.training.constants import OPTIMIZER_NAME as OPTIMIZER_NAME
    from accelnb.training.constants import PROFILE_PATTERN_NAME as PROFILE_PATTERN_NAME
    from accelnb.training.constants import RNG_STATE_NAME as RNG_STATE_NAME
    from accelnb.training.constants import SAFE_MODEL_NAME as SAFE_MODEL_NAME
    from accelnb.training.constants import SAFE_WEIGHTS_INDEX_NAME as SAFE_WEIGHTS_INDEX_NAME
    from accelnb.training.constants import SAFE_WEIGHTS_NAME as SAFE_WEIGHTS_NAME
    from accelnb.training.constants import SAFE_WEIGHTS_PATTERN_NAME as SAFE_WEIGHTS_PATTERN_NAME
    from accelnb.training.constants import SAMPLER_NAME as SAMPLER_NAME
    from accelnb.training.constants import SCALER_NAME as SCALER_NAME
    from accelnb.training.constants import SCHEDULER_NAME as SCHEDULER_NAME
    from accelnb.training.constants import STR_OPERATION_TO_FUNC as STR_OPERATION_TO_FUNC
    from accelnb.training.constants import (
        TORCH_DISTRIBUTED_OPERATION_TYPES as TORCH_DISTRIBUTED_OPERATION_TYPES,
    )
    from accelnb.training.constants import TORCH_LAUNCH_PARAMS as TORCH_LAUNCH_PARAMS
    from accelnb.training.constants import WEIGHTS_INDEX_NAME as WEIGHTS_INDEX_NAME
    from accelnb.training.constants import WEIGHTS_NAME as WEIGHTS_NAME
    from accelnb.training.constants import WEIGHTS_PATTERN_NAME as WEIGHTS_PATTERN_NAME
    from accelnb.training.constants import (
        XPU_PROFILING_AVAILABLE_PYTORCH_VERSION as XPU_PROFILING_AVAILABLE_PYTORCH_VERSION,
    )
    from accelnb.training.debug_mode import (
        DistributedOperationException as DistributedOperationException,
    )
    from accelnb.training.enums import ComputeEnvironment as ComputeEnvironment
    from accelnb.training.enums import DDPCommunicationHookType as DDPCommunicationHookType
    from accelnb.training.enums import DistributedType as DistributedType
    from accelnb.training.enums import DynamoBackend as DynamoBackend
    from accelnb.training.enums import LoggerType as LoggerType
    from accelnb.training.enums import PrecisionType as PrecisionType
    from accelnb.training.enums import RNGType as RNGType
    from accelnb.training.enums import SageMakerDistributedType as SageMakerDistributedType
    from accelnb.training.fsdp_names import (
        disable_fsdp_ram_efficient_loading as disable_fsdp_ram_efficient_loading,
    )
    from accelnb.training.fsdp_names import (
        enable_fsdp_ram_efficient_loading as enable_fsdp_ram_efficient_loading,
    )
    from accelnb.training.fsdp_names import fsdp2_apply_ac as fsdp2_apply_ac
    from accelnb.training.fsdp_names import (
        fsdp2_canonicalize_names as fsdp2_canonicalize_names,
    )
    from accelnb.training.fsdp_names import (
        fsdp2_load_full_state_dict as fsdp2_load_full_state_dict,
    )
    from accelnb.training.fsdp_names import fsdp2_prepare_model as fsdp2_prepare_model
    from accelnb.training.fsdp_plugin import (
        FullyShardedDataParallelPlugin as FullyShardedDataParallelPlugin,
    )
    from accelnb.training.machine_names import (
        are_libraries_initialized as are_libraries_initialized,
    )
    from accelnb.training.machine_names import (
        check_cuda_fp8_capability as check_cuda_fp8_capability,
    )
    from accelnb.training.machine_names import (
        check_cuda_p2p_ib_support as check_cuda_p2p_ib_support,
    )
    from accelnb.training.machine_names import (
        convert_dict_to_env_variables as convert_dict_to_env_variables,
    )
    from accelnb.training.machine_names import (
        get_cpu_distributed_information as get_cpu_distributed_information,
    )
    from accelnb.training.machine_names import get_current_device_type as get_current_device_type
    from accelnb.training.machine_names import get_gpu_info as get_gpu_info
    from accelnb.training.memory import clear_device_cache as clear_device_cache
    from accelnb.training.memory import find_executable_batch_size as find_executable_batch_size
    from accelnb.training.memory import release_memory as release_memory
    from accelnb.training.memory import should_reduce_batch_size as should_reduce_batch_size
    from accelnb.training.model_parts import get_model_tp_size as get_model_tp_size
    from accelnb.training.model_parts import (
        get_module_children_bottom_up as get_module_children_bottom_up,
    )
    from accelnb.training.model_parts import (
        has_transformer_engine_layers as has_transformer_engine_layers,
    )
    from accelnb.training.model_parts import is_peft_model as is_peft_model
    from accelnb.training.model_parts import model_has_dtensor as model_has_dtensor
    from accelnb.training.padding import (
        CannotPadNestedTensorWarning as CannotPadNestedTensorWarning,
    )
    from accelnb.training.padding import pad_across_processes as pad_across_processes
    from accelnb.training.padding import pad_input_tensors as pad_input_tensors
    from accelnb.training.parallel.activation_checkpointing import (
        checkpoint_activations as checkpoint_activations,
    )
    from accelnb.training.parallel.compilation import compile_regions as compile_regions
    from accelnb.training.parallel.compilation import compile_regions_fsdp2 as compile_regions_fsdp2
    from accelnb.training.parallel.compilation import has_compiled_regions as has_compiled_regions
    from accelnb.training.parallel.compilation import is_compiled_module as is_compiled_module
    from accelnb.training.parallel.fp8_layers import (
        convert_model_to_fp8_ao as convert_model_to_fp8_ao,
    )
    from accelnb.training.parallel.fp8_layers import (
        filter_first_and_last_linear_layers as filter_first_and_last_linear_layers,
    )
    from accelnb.training.parallel.fp8_layers import has_ao_layers as has_ao_layers
    from accelnb.training.parallel.fp8_layers import torchao_required as torchao_required
    from accelnb.training.parallel.meta_start.drawing import (
        initialize_weights as initialize_weights,
    )
    from accelnb.training.parallel.unwrapping import (
        extract_model_from_parallel as extract_model_from_parallel,
    )
    from accelnb.training.parallel.whole import summon_full_params as summon_full_params
    from accelnb.training.parallelism_config import (
        DeepSpeedSequenceParallelConfig as DeepSpeedSequenceParallelConfig,
    )
    from accelnb.training.parallelism_config import ParallelismConfig as ParallelismConfig
    from accelnb.training.parallelism_config import (
        TorchContextParallelConfig as TorchContextParallelConfig,
    )
    from accelnb.training.parallelism_config import (
        TorchTensorParallelConfig as TorchTensorParallelConfig,
    )
    from accelnb.training.precision import convert_outputs_to_fp32 as convert_outputs_to_fp32
    from accelnb.training.precision import (
        get_mixed_precision_context_manager as get_mixed_precision_context_manager,
    )
    from accelnb.training.progress import tqdm as tqdm
    from accelnb.training.pytree import TensorInformation as TensorInformation
    from accelnb.training.pytree import concatenate as concatenate
    from accelnb.training.pytree import convert_to_fp32 as convert_to_fp32
    from accelnb.training.pytree import find_batch_size as find_batch_size
    from accelnb.training.pytree import find_device as find_device
    from accelnb.training.pytree import get_data_structure as get_data_structure
    from accelnb.training.pytree import get_shape as get_shape
    from accelnb.training.pytree import honor_type as honor_type
    from accelnb.training.pytree import ignorant_find_batch_size as ignorant_find_batch_size
    from accelnb.training.pytree import initialize_tensors as initialize_tensors
    from accelnb.training.pytree import is_namedtuple as is_namedtuple
    from accelnb.training.pytree import is_tensor_information as is_tensor_information
    from accelnb.training.pytree import is_torch_tensor as is_torch_tensor
    from accelnb.training.pytree import listify as listify
    from accelnb.training.pytree import recursively_apply as recursively_apply
    from accelnb.training.pytree import send_to_device as send_to_device
    from accelnb.training.pytree import slice_tensors as slice_tensors
    from accelnb.training.reduction import reduce as reduce
    from accelnb.training.rng import set_seed as set_seed
    from accelnb.training.rng import synchronize_rng_state as synchronize_rng_state
    from accelnb.training.rng import synchronize_rng_states as synchronize_rng_states

_NAMES = {
    "accelnb.big_model.aligned": "align_module_device",
    "accelnb.big_model.layerwise_casting": "SUPPORTED_PYTORCH_LAYERS_FOR_UPCASTING",
    "accelnb.big_model.auto_device_map": "infer_auto_device_map",
    "accelnb.big_model.device_maps": """
        check_device_map check_tied_parameters_on_same_device clean_device_map
    """,
    "accelnb.big_model.loading": "load_checkpoint_in_model",
    "accelnb.big_model.max_memory": "get_balanced_memory get_max_memory",
    "accelnb.big_model.sizes": """
        calculate_maximum_sizes compute_module_sizes compute_module_total_buffer_size
        convert_file_size_to_int get_max_layer_size id_tensor_storage
    """,
    "accelnb.big_model.state_dicts": "load_offloaded_weights load_state_dict",
    "accelnb.big_model.tied": "check_tied_parameters_in_config retie_parameters",
    "accelnb.big_model.dtypes": "CustomDtype dtype_byte_size",
    "accelnb.big_model.module_tensors": """
        get_non_persistent_buffers has_offloaded_params named_module_tensors
    """,
    "accelnb.big_model.offloaded_files": """
        load_offloaded_weight offload_state_dict offload_weight save_offload_index
    """,
    "accelnb.big_model.placing": "set_module_tensor_to_device",
    "accelnb.big_model.quantization.bnb_config": "BnbQuantizationConfig",
    "accelnb.big_model.quantization.bnb_layers": "has_4bit_bnb_layers",
    "accelnb.big_model.quantization.loading": "load_and_quantize_model",
    "accelnb.big_model.quantization.torchao_config": "TorchaoQuantizationConfig",
    "accelnb.big_model.weights_maps": """
        OffloadedWeightsLoader PrefixedDataset extract_submodules_state_dict
    """,
    "accelnb.training.available": """
        compare_versions is_4bit_bnb_available is_8bit_bnb_available is_aim_available
        is_amdsmi_available is_bf16_available is_bitsandbytes_multi_backend_available
        is_bnb_available is_boto3_available is_clearml_available is_comet_ml_available
        is_cuda_available is_datasets_available is_deepspeed_available is_dvclive_available
        is_fp16_available is_fp8_available is_habana_gaudi1 is_hpu_available
        is_import_timer_available is_lomo_available is_matplotlib_available
        is_megatron_lm_available is_mlflow_available is_mlu_available is_mps_available
        is_msamp_available is_musa_available is_neuron_available is_npu_available
        is_numpy_available is_package_available is_pandas_available is_peft_available
        is_pippy_available is_pynvml_available is_pytest_available is_rich_available
        is_rocm_available is_sagemaker_available is_schedulefree_available is_sdaa_available
        is_swanlab_available is_tensorboard_available is_timm_available
        is_torch_distributed_available is_torch_version is_torch_xla_available
        is_torchao_available is_torchdata_available is_torchdata_stateful_dataloader_available
        is_torchvision_available is_tqdm_available is_trackio_available
        is_transformer_engine_available is_transformer_engine_mxfp8_available
        is_transformers_available is_triton_available is_wandb_available is_weights_only_available
        is_xccl_available is_xpu_available
    """,
    "accelnb.training.debug_mode": "DistributedOperationException",
    "accelnb.training.checkpoint.files": "load save",
    "accelnb.training.checkpoint.fsdp_folders": """
        load_fsdp_model load_fsdp_optimizer merge_fsdp_weights save_fsdp_model save_fsdp_optimizer
    """,
    "accelnb.training.checkpoint.weights": """
        clean_state_dict_for_safetensors find_tied_parameters
    """,
    "accelnb.training.collectives": """
        broadcast broadcast_object_list copy_tensor_to_devices gather gather_object
        wait_for_everyone
    """,
    "accelnb.training.accelerate_names": """
        check_os_kernel clear_environment convert_bytes get_free_port get_int_from_env
        get_pretty_name is_port_in_use merge_dicts parse_choice_from_env parse_flag_from_env
        patch_environment purge_accelerate_environment recursive_getattr str_to_bool
    """,
    "accelnb.training.parallel.activation_checkpointing": "checkpoint_activations",
    "accelnb.training.parallel.compilation": """
        compile_regions compile_regions_fsdp2 has_compiled_regions is_compiled_module
    """,
    "accelnb.training.parallel.meta_start.drawing": "initialize_weights",
    "accelnb.training.parallel.whole": "summon_full_params",
    "accelnb.training.constants": """
        MITA_PROFILING_AVAILABLE_PYTORCH_VERSION MODEL_NAME OPTIMIZER_NAME PROFILE_PATTERN_NAME
        RNG_STATE_NAME SAFE_MODEL_NAME SAFE_WEIGHTS_INDEX_NAME SAFE_WEIGHTS_NAME
        SAFE_WEIGHTS_PATTERN_NAME SAMPLER_NAME SCALER_NAME SCHEDULER_NAME STR_OPERATION_TO_FUNC
        TORCH_DISTRIBUTED_OPERATION_TYPES TORCH_LAUNCH_PARAMS WEIGHTS_INDEX_NAME WEIGHTS_NAME
        WEIGHTS_PATTERN_NAME XPU_PROFILING_AVAILABLE_PYTORCH_VERSION
    """,
    "accelnb.training.enums": """
        ComputeEnvironment DDPCommunicationHookType DistributedType DynamoBackend LoggerType
        PrecisionType RNGType SageMakerDistributedType
    """,
    "accelnb.training.memory": """
        clear_device_cache find_executable_batch_size release_memory should_reduce_batch_size
    """,
    "accelnb.training.pytree": """
        TensorInformation concatenate convert_to_fp32 find_batch_size find_device
        get_data_structure get_shape honor_type ignorant_find_batch_size initialize_tensors
        is_namedtuple is_tensor_information is_torch_tensor listify recursively_apply
        send_to_device slice_tensors
    """,
    "accelnb.training.padding": """
        CannotPadNestedTensorWarning pad_across_processes pad_input_tensors
    """,
    "accelnb.training.precision": "convert_outputs_to_fp32 get_mixed_precision_context_manager",
    "accelnb.training.progress": "tqdm",
    "accelnb.training.reduction": "reduce",
    "accelnb.training.rng": "set_seed synchronize_rng_state synchronize_rng_states",
    "accelnb.training.configuration": """
        AORecipeKwargs AutocastKwargs DataLoaderConfiguration DistributedDataParallelKwargs
        GradScalerKwargs GradientAccumulationPlugin InitProcessGroupKwargs KwargsHandler
        ProfileKwargs ProjectConfiguration TorchDynamoPlugin
    """,
    "accelnb.training.fsdp_plugin": "FullyShardedDataParallelPlugin",
    "accelnb.training.parallel.unwrapping": "extract_model_from_parallel",
    "accelnb.training.parallelism_config": """
        DeepSpeedSequenceParallelConfig ParallelismConfig TorchContextParallelConfig
        TorchTensorParallelConfig
    """,
    "accelnb.options.accelerate_config": "write_basic_config",
    "accelnb.training.machine_names": """
        are_libraries_initialized check_cuda_fp8_capability check_cuda_p2p_ib_support
        convert_dict_to_env_variables get_cpu_distributed_information get_current_device_type
        get_gpu_info
    """,
    "accelnb.training.model_parts": """
        get_model_tp_size get_module_children_bottom_up has_transformer_engine_layers
        is_peft_model model_has_dtensor
    """,
    "accelnb.training.parallel.fp8_layers": """
        convert_model_to_fp8_ao filter_first_and_last_linear_layers has_ao_layers torchao_required
    """,
    "accelnb.training.fsdp_names": """
        disable_fsdp_ram_efficient_loading enable_fsdp_ram_efficient_loading fsdp2_apply_ac
        fsdp2_canonicalize_names fsdp2_load_full_state_dict fsdp2_prepare_model
    """,
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [*_HOMES, *not_here.__all__]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: `import accelnb.utils` alone imports no torch."""
    if name in not_here.__all__:
        return getattr(not_here, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'accelnb.utils' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
