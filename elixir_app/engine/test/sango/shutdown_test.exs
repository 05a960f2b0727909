defmodule Sango.ShutdownTest do
  @moduledoc "A whole node that stops, or is killed, with work in flight. Each node is an operating system process."
  use Sango.Case, async: false

  @moduletag timeout: 120_000

  @script """
  [models, data, request] = System.argv()
  {:ok, _} = Application.ensure_all_started(:engine)
  {:ok, _} = Sango.start_link(models_dir: models, data_dir: data)

  # The first node hands the jobs in, the next ones wait for what they find.
  if request == "submit" do
    for {steps, seed} <- [{100, 1}, {3, 2}] do
      job = %{kind: "image", prompt: "a small green star", options: %{steps: steps, seed: seed}}
      {:ok, %{"id" => id}} = Sango.submit(job, detached: true)
      IO.puts("job " <> id)
    end
  end

  {:ok, %{"jobs" => jobs}} = Sango.list()

  for %{"id" => id, "state" => state} <- Enum.reverse(jobs), state in ["queued", "interrupted", "running"] do
    :ok = Sango.subscribe(id)
    IO.puts("found " <> id <> " " <> state)
  end

  follow = fn follow, open ->
    receive do
      {:sango, :event, id, %{"event" => event}} ->
        IO.puts(event <> " " <> id)
        follow.(follow, open)

      {:sango, :end, _id} ->
        if open > 1, do: follow.(follow, open - 1)
    end
  end

  follow.(follow, 2)
  IO.puts("done")
  """

  test "stopping a node keeps its jobs, and the next node runs them", %{data: data} do
    node = start_node(data, "submit")
    jobs = for _ <- 1..2, do: read_until(node, "job ")
    read_until(node, "progress ")
    # What an init system sends.
    os_pid = stop(node, "TERM")
    assert_receive {^node, {:exit_status, status}}, 30_000
    assert status in [0, 143]
    refute File.exists?("/proc/#{os_pid}")
    assert_all_finish(data, jobs)
  end

  test "killing a node loses no job either", %{data: data} do
    node = start_node(data, "submit")
    jobs = for _ <- 1..2, do: read_until(node, "job ")
    read_until(node, "progress ")
    stop(node, "KILL")
    assert_receive {^node, {:exit_status, 137}}, 30_000
    assert_all_finish(data, jobs)
  end

  test "a node that is told to halt with work in flight ends, and does not crash", %{data: data} do
    script = """
    [models, data] = System.argv()
    {:ok, _} = Application.ensure_all_started(:engine)
    {:ok, engine} = Sango.Native.open(%{models_dir: models, data_dir: data}, self())
    job = %{kind: "image", prompt: "a", options: %{steps: 100}}
    {:ok, {%{"id" => id}, true}} = Sango.Native.submit(engine, job)
    {:ok, subscription} = Sango.Native.subscribe(engine, id, 0, self(), :tag)
    {:ok, watch} = Sango.Native.watch(engine, self(), :tag)
    # A handle that nobody keeps ends with the next garbage collection.
    Process.put(:kept, [engine, subscription, watch])
    receive do: ({:sango_event, :tag, %{"event" => "progress"}} -> :ok)
    System.halt(7)
    """

    arguments = ["-pa", ebin(), "-e", script, models_dir(), data]
    assert {_output, 7} = System.cmd(elixir(), arguments, stderr_to_stdout: true, env: [{"PATH", path()}])
  end

  defp assert_all_finish(data, jobs) do
    node = start_node(data, "wait")
    output = read_to_end(node)
    for id <- jobs, do: assert(("finished " <> id) in output, Enum.join(output, "\n"))
    assert List.last(output) == "done"
  end

  defp start_node(data, what) do
    arguments = ["-pa", ebin(), "-e", @script, models_dir(), data, what]

    options = [:binary, :exit_status, :stderr_to_stdout, line: 4096, args: arguments]
    Port.open({:spawn_executable, elixir()}, [{:env, [{to_charlist("PATH"), to_charlist(path())}]} | options])
  end

  # Without the folder that a VM puts first for its own programs: `erl` in there knows only the place it was built for.
  defp path do
    "PATH" |> System.get_env() |> String.split(":") |> Enum.reject(&(&1 =~ "/erts-")) |> Enum.join(":")
  end

  defp elixir, do: System.find_executable("elixir")
  defp ebin, do: Application.app_dir(:engine, "ebin")

  defp read_until(node, start) do
    receive do
      {^node, {:data, {:eol, line}}} ->
        if String.starts_with?(line, start),
          do: String.replace_prefix(line, start, ""),
          else: read_until(node, start)

      {^node, {:exit_status, status}} ->
        flunk("the node ended with status #{status} before it said #{inspect(start)}")
    after
      60_000 -> flunk("the node did not say #{inspect(start)}")
    end
  end

  defp read_to_end(node, lines \\ []) do
    receive do
      {^node, {:data, {_, line}}} -> read_to_end(node, [line | lines])
      {^node, {:exit_status, 0}} -> Enum.reverse(lines)
      {^node, {:exit_status, status}} -> flunk("status #{status}: #{Enum.join(Enum.reverse(lines), "\n")}")
    after
      60_000 -> flunk("the node does not end: #{inspect(Enum.reverse(lines))}")
    end
  end

  # `elixir` is a shell script that becomes the VM, so the port's process is the VM itself.
  defp stop(node, signal) do
    {:os_pid, os_pid} = Port.info(node, :os_pid)
    {_, 0} = System.cmd("kill", ["-#{signal}", "#{os_pid}"])
    os_pid
  end
end
