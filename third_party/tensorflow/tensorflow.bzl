"""The TensorFlow of a Python environment, as a C++ library to compile ops against."""

_FLAGS = """
import json
import tensorflow as tf
print(json.dumps({
    "compile": tf.sysconfig.get_compile_flags(),
    "link": tf.sysconfig.get_link_flags(),
}))
"""

_BUILD = """
cc_import(
    name = "framework",
    shared_library = "lib/{library}",
)

cc_library(
    name = "tensorflow",
    # What ops include: every action's sandbox has to link to every header.
    hdrs = glob(
        ["include/**"],
        exclude = [
            "include/external/**",
            "include/tensorflow/compiler/**",
            "include/third_party/gpus/**",
        ],
    ),
    defines = {defines},
    # As system headers: their warnings are not this project's to mend.
    includes = ["include"],
    deps = [":framework"],
    visibility = ["//visibility:public"],
)
"""

def _tensorflow_impl(repository_ctx):
    # The environment variable, else the project's virtual environment, else PATH.
    python = repository_ctx.os.environ.get("KERAS_LSH_PYTHON", "")
    if not python:
        venv = repository_ctx.path(Label("//:WORKSPACE")).dirname.get_child(".venv")
        python = venv.get_child("bin").get_child("python")
        if not python.exists:
            python = repository_ctx.which("python3")

    # The working directory is not on sys.path: -c would put it there.
    result = repository_ctx.execute(
        [python, "-c", _FLAGS],
        environment = {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if result.return_code != 0:
        fail(("No TensorFlow can be imported by %s. Name a Python that has it in " +
              "the environment variable KERAS_LSH_PYTHON, or run `make install`.\n%s") %
             (python, result.stderr))
    flags = json.decode(result.stdout.strip().split("\n")[-1])

    defines = []
    for flag in flags["compile"]:
        if flag.startswith("-I"):
            repository_ctx.symlink(flag[2:], "include")
        elif flag.startswith("-D"):
            defines.append(flag[2:])
    directory = ""
    library = ""
    for flag in flags["link"]:
        if flag.startswith("-L"):
            directory = flag[2:]
        elif flag.startswith("-l:"):
            library = flag[3:]
    repository_ctx.symlink(directory + "/" + library, "lib/" + library)
    repository_ctx.file(
        "BUILD",
        _BUILD.format(defines = repr(defines), library = library),
    )

tensorflow = repository_rule(
    implementation = _tensorflow_impl,
    configure = True,
    environ = ["KERAS_LSH_PYTHON", "PATH"],
    local = True,
)
