defmodule Sango.Case do
  @moduledoc """
  An instance for each test, in a folder of its own: in memory (`start_memory/1`), or the real engine on the model
  that ships with this project (`start_native/1`).
  """

  use ExUnit.CaseTemplate

  import ExUnit.Assertions

  @models Path.expand("../../../../models/shapes", __DIR__)
  @patience 20_000

  using do
    quote do
      import Sango.Case
    end
  end

  setup context do
    name = :"#{context.test}#{System.unique_integer([:positive])}"
    data = Path.join(System.tmp_dir!(), "sango-exunit-#{:os.getpid()}-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm_rf!(data) end)
    {:ok, name: name, data: data}
  end

  @doc "Starts an instance whose jobs run as the test says."
  def start_memory(context, options \\ []) do
    start_instance(context, [backend: Sango.MemoryBackend, models_dir: "none"] ++ options)
  end

  @doc "Starts an instance on the real engine."
  def start_native(context, options \\ []), do: start_instance(context, [models_dir: @models] ++ options)

  @doc "The folder of the shipped models."
  def models_dir, do: @models

  defp start_instance(context, options) do
    {:ok, pid} =
      ExUnit.Callbacks.start_supervised({Sango, [name: context.name, data_dir: context.data] ++ options})

    pid
  end

  @doc "A job for the shipped model: one step, unless told otherwise."
  def picture(options \\ []) do
    prompt = Keyword.get(options, :prompt, "a large red circle on a blue background")
    options = Map.merge(%{steps: 1}, Map.new(Keyword.delete(options, :prompt)))
    %{kind: "image", prompt: prompt, options: options}
  end

  @doc "A process of an instance."
  def process(name, role) do
    case Registry.lookup(Sango.Registry, {name, role}) do
      [{pid, _value}] -> pid
      [] -> nil
    end
  end

  @doc "Kills a process and waits until its successor has its place."
  def kill_and_wait(name, role) do
    old = process(name, role)
    Process.exit(old, :kill)
    eventually(fn -> assert process(name, role) not in [nil, old] end)
    old
  end

  @doc "Repeats what asserts something until it holds."
  def eventually(check), do: repeat(check, System.monotonic_time(:millisecond) + @patience)

  defp repeat(check, deadline) do
    check.()
  rescue
    error in [ExUnit.AssertionError, MatchError] ->
      if System.monotonic_time(:millisecond) > deadline, do: reraise(error, __STACKTRACE__)
      Process.sleep(5)
      repeat(check, deadline)
  end

  @doc "The events of a job that the calling process is sent, until the end."
  def events(id, seen \\ []) do
    receive do
      {:sango, :event, ^id, event} -> events(id, [event | seen])
      {:sango, :end, ^id} -> Enum.reverse(seen)
    after
      @patience -> flunk("no end of job #{id} after #{inspect(Enum.reverse(seen))}")
    end
  end

  @doc "A process that runs `function`, and then lives until it is killed."
  def asker(function) do
    test = self()
    ref = make_ref()

    pid =
      spawn(fn ->
        send(test, {ref, function.()})
        Process.sleep(:infinity)
      end)

    receive do
      {^ref, value} -> {pid, value}
    after
      @patience -> flunk("the asking process got no answer")
    end
  end
end
