defmodule Mix.Tasks.Compile.SangoNif do
  @shortdoc "Builds the NIF with cargo"

  @moduledoc """
  Builds the Rust library of `Sango.Native` and puts it into this application's `priv/native`.

  It runs `cargo build --release -p sango-nif` in the workspace this application is part of, and does nothing when the
  library is newer than every Rust source. Environment variables:

    * `SANGO_NIF_PATH` - a library that is built already, to be used instead
    * `CARGO` - the cargo to run
    * `CARGO_TARGET_DIR` - where cargo builds
  """

  use Mix.Task.Compiler

  @workspace Path.expand("../../../../../..", __DIR__)
  @sources ["Cargo.toml", "Cargo.lock", "native", "crates/{jobs,media,models,tensor}"]

  @impl true
  def run(_arguments) do
    target = target()

    case System.get_env("SANGO_NIF_PATH") do
      nil -> if stale?(target), do: build(target), else: {:noop, []}
      prebuilt -> use_prebuilt(prebuilt, target)
    end
  end

  @impl true
  def clean do
    File.rm(target())
  end

  # `:erlang.load_nif/2` adds the ending: `.dll` on Windows, `.so` on all others.
  defp target, do: Path.join([Mix.Project.app_path(), "priv", "native", "sango_nif" <> ending()])
  defp ending, do: if(match?({:win32, _}, :os.type()), do: ".dll", else: ".so")

  defp built do
    name =
      case :os.type() do
        {:win32, _} -> "sango_nif.dll"
        {:unix, :darwin} -> "libsango_nif.dylib"
        _ -> "libsango_nif.so"
      end

    folder = System.get_env("CARGO_TARGET_DIR", "target")
    Path.join([Path.expand(folder, @workspace), "release", name])
  end

  defp stale?(target) do
    case File.stat(target, time: :posix) do
      {:ok, %{mtime: built_at}} -> newest_source() >= built_at
      {:error, _} -> true
    end
  end

  defp newest_source do
    @sources
    |> Enum.flat_map(&Path.wildcard(Path.join(@workspace, &1)))
    |> Enum.flat_map(&if(File.dir?(&1), do: Path.wildcard(&1 <> "/**/*"), else: [&1]))
    |> Enum.map(&File.stat!(&1, time: :posix).mtime)
    |> Enum.max(fn -> 0 end)
  end

  defp build(target) do
    cargo = System.get_env("CARGO", "cargo")

    cond do
      not File.dir?(Path.join(@workspace, "native/nif")) ->
        failed("the Rust sources are not beside this application: set SANGO_NIF_PATH to a built library")

      System.find_executable(cargo) == nil ->
        failed(
          "`#{cargo}` is not there: install Rust from https://rustup.rs, or set SANGO_NIF_PATH to a built library"
        )

      true ->
        Mix.shell().info("Building the NIF of Sango (the first time this takes some minutes)")
        arguments = ["build", "--release", "--quiet", "-p", "sango-nif"]
        # What is changed while cargo runs may not be in what it builds.
        began = System.os_time(:second)

        case System.cmd(cargo, arguments,
               cd: @workspace,
               into: IO.stream(:stdio, :line),
               stderr_to_stdout: true
             ) do
          {_output, 0} -> install(built(), target, began)
          {_output, status} -> failed("`#{cargo} #{Enum.join(arguments, " ")}` failed with status #{status}")
        end
    end
  end

  defp use_prebuilt(path, target) do
    cond do
      not File.regular?(path) -> failed("SANGO_NIF_PATH is #{path}, where there is no file")
      same?(path, target) -> {:noop, []}
      true -> install(path, target, System.os_time(:second))
    end
  end

  defp same?(path, target) do
    with {:ok, %{size: size}} <- File.stat(path), {:ok, %{size: ^size}} <- File.stat(target) do
      File.read!(path) == File.read!(target)
    else
      _ -> false
    end
  end

  # Under a new name first: a running VM keeps the file it has loaded, instead of seeing it change under it.
  defp install(path, target, time) do
    part = target <> ".part"
    File.mkdir_p!(Path.dirname(target))
    File.cp!(path, part)
    File.touch!(part, time)
    File.rename!(part, target)
    {:ok, []}
  end

  defp failed(message) do
    message = "cannot build the NIF of Sango: " <> message
    Mix.shell().error(message)

    {:error,
     [
       %Mix.Task.Compiler.Diagnostic{
         compiler_name: "sango_nif",
         file: Path.join(@workspace, "native/nif/Cargo.toml"),
         message: message,
         position: nil,
         severity: :error
       }
     ]}
  end
end
