defmodule Mix.Tasks.Compile.SangoNifTest do
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Mix.Tasks.Compile.SangoNif

  setup do
    before = System.get_env()

    on_exit(fn ->
      for key <- ["SANGO_NIF_PATH", "CARGO"] do
        if before[key], do: System.put_env(key, before[key]), else: System.delete_env(key)
      end
    end)

    System.delete_env("SANGO_NIF_PATH")
    {:ok, library: Application.app_dir(:engine, "priv/native/sango_nif.so")}
  end

  defp fails do
    test = self()
    text = capture_io(:stderr, fn -> send(test, SangoNif.run([])) end)
    assert_received {:error, [%Mix.Task.Compiler.Diagnostic{severity: :error, message: message}]}
    assert text =~ message
    message
  end

  test "a library that is built already is taken, once", %{library: library} do
    copy = Path.join(System.tmp_dir!(), "sango-nif-#{System.unique_integer([:positive])}.so")
    on_exit(fn -> File.rm(copy) end)
    File.cp!(library, copy)
    System.put_env("SANGO_NIF_PATH", copy)
    assert {:noop, []} = SangoNif.run([])
    # Longer by what a loader does not look at.
    File.write!(copy, "0", [:append])
    assert {:ok, []} = SangoNif.run([])
    assert {:noop, []} = SangoNif.run([])
    assert File.read!(library) == File.read!(copy)
  end

  test "one that is not there is an error that says so" do
    System.put_env("SANGO_NIF_PATH", "/nowhere/sango_nif.so")
    assert fails() =~ "SANGO_NIF_PATH is /nowhere/sango_nif.so, where there is no file"
  end

  test "without cargo the message says what to install", %{library: library} do
    File.touch!(library, 0)
    on_exit(fn -> File.touch!(library) end)
    System.put_env("CARGO", "no-such-cargo")
    assert fails() =~ "`no-such-cargo` is not there: install Rust"
  end
end
