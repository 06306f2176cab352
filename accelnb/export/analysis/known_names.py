"""Words by which an export tells looking from doing: names of packages, methods and functions."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Packages that draw; a call into them is never what a training needs.
DRAWING = _words(
    "IPython altair bokeh graphviz holoviews ipywidgets matplotlib plotly seaborn tensorboard "
    "torchinfo torchsummary torchviz"
)
# Of these packages, what reads data.
READING = _words("imread get_data")
# How functions begin that show something.
DRAWING_WORDS = ("plot", "show", "display", "draw", "visuali", "print", "summar", "inspect", "peek")
# Methods that return what they say and change nothing.
LOOKING = _words(
    "agg aggregate asdict astuple boxplot corr count cov crosstab describe device_count dim dtypes "
    "exists format groupby nlargest nsmallest percentile pivot_table quantile query "
    "get_device_name get_device_properties getcwd glob head hist info is_available isna isnull "
    "item items join keys listdir max mean min named_parameters numel nunique parameters plot "
    "sample shape show size state_dict std sum tail tolist unique value_counts values var"
)
# Methods that change their object even where their value is used.
CHANGING = _words(
    "add append apply clear discard eval extend fit insert load_state_dict pop popitem remove "
    "requires_grad_ reverse setdefault shuffle sort step train update zero_grad"
)
# Methods of lists, dicts, texts, files, parsers and loggers, which compute nothing.
OF_CONTAINERS = _words(
    "add add_argument add_argument_group append clear copy debug discard endswith exists extend "
    "format get info insert items join keys lower mkdir parse_args parse_known_args pop popitem "
    "read readlines remove replace setdefault setLevel split splitlines startswith strip update "
    "upper values warning write"
)
# Calls that save something, by the last part of their name.
SAVING = _words(
    "copy2 copyfile copytree download dump export extractall makedirs mkdir move push_to_hub "
    "rmdir rmtree save save_file save_model save_pretrained savetxt savez symlink to_csv to_json "
    "to_parquet to_pickle touch unlink urlretrieve write write_bytes write_text"
)
# Calls that change files.
WRITING = SAVING | _words("copy remove rename replace system")
# Of these modules, those names mean files; other objects have methods of the same names.
FILE_MODULES = _words("json numpy os pathlib pickle safetensors shutil torch urllib")
# How functions begin that set something for the whole process, and others that do.
SETTING = ("set_", "seed", "manual_seed", "enable", "disable", "use_", "filter")
SETTING_CALLS = _words("basicConfig chdir init login register simplefilter")
# Line magics that only look, or change only the notebook.
MAGICS_LEFT_OUT = _words(
    "accelnb aimport alias autoreload colors conda config debug hist history load_ext logstart "
    "lprun lsmagic magic matplotlib mem memit mprun notebook page pastebin pdb pdoc pfile pinfo "
    "pinfo2 pip popd precision prun psearch psource pushd pwd pycat pylab quickref recall "
    "reload_ext reset reset_selective save sc store tensorboard timeit unload_ext uv watermark "
    "who who_ls whos xmode"
)
# Calls whose value nobody wants to see: they return None.
SAY_NOTHING = _words(
    "all_reduce append barrier broadcast close destroy_process_group end_training extend finish "
    "fit free_memory init_process_group init_trackers load_state log manual_seed pprint print run "
    "save save_model save_state seed set_seed show sleep step update wait_for_everyone write "
    "zero_grad"
)
# Builtins and methods whose value shares nothing with what they are given.
NEW_BY_BUILTINS = _words(
    "abs all any bool bytes callable chr complex dir divmod float format hasattr hash hex id input "
    "int isinstance issubclass len open ord pow print range repr round str sum type"
)
NEW_BY_METHODS = _words(
    "clone copy corr count deepcopy describe dim encode endswith format isna isnull item keys "
    "lower manual_seed numel nunique size split startswith strip tolist upper value_counts"
)
# Decorators that only wrap what they stand on, by the last part of their name.
WRAPPING = _words(
    "abstractmethod asynccontextmanager autocast cache cached_property classmethod compile "
    "contextmanager dataclass define deleter deprecated enable_grad final "
    "find_executable_batch_size frozen getter inference_mode jit lru_cache memoize njit no_grad "
    "no_type_check overload override profile property record retry runtime_checkable script setter "
    "singledispatch singledispatchmethod staticmethod total_ordering typechecked unique vmap wraps"
)
# Packages whose functions, shown as the last value of a cell, are looked at.
COMPUTING = _words(
    "PIL cv2 datasets einops evaluate jax librosa math networkx nltk numpy pandas polars scipy "
    "skimage sklearn spacy sympy tokenizers torch torchaudio torchmetrics torchtext torchvision "
    "transformers"
)
# How functions are named that draw random numbers, and others that do.
DRAWING_NUMBERS = ("rand", "dropout", "shuffle", "sample", "init_weights", "reset_parameters")
DRAWING_NUMBERS_CALLS = _words(
    "bernoulli choice choices exponential gauss multinomial normal normal_ permutation poisson "
    "trunc_normal_ uniform uniform_ kaiming_normal_ kaiming_uniform_ orthogonal_ train_test_split "
    "xavier_normal_ xavier_uniform_"
)
