defmodule SangoWeb.OpsState do
  @moduledoc "What the operations page shows, read from the engine and from the VM."

  # Jobs that the page shows.
  @newest 30

  @doc "How things are now. What the engine does not tell, because it is starting or stopping, is empty."
  @spec read() :: map
  def read do
    jobs = (%{limit: @newest} |> Sango.list() |> ok(%{"jobs" => []}))["jobs"]

    Map.merge(read_counts(), %{models: ok(Sango.models(), []), jobs: jobs})
  end

  @doc "The part of it that changes with every job."
  @spec read_counts() :: map
  def read_counts do
    %{
      ready: Sango.ready(),
      stats: ok(Sango.stats(), %{}),
      waiting: waiting(ok(Sango.waiting(), [])),
      vm: vm(),
      now: System.os_time(:millisecond)
    }
  end

  @doc "The jobs with newer views of some of them, the newest first."
  @spec merge_jobs([map], [map]) :: [map]
  def merge_jobs(jobs, changed) do
    changed = Map.new(changed, &{&1["id"], &1})
    known = Map.new(jobs, &{&1["id"], &1})

    # Ids grow with time.
    known
    |> Map.merge(changed, fn _id, old, new ->
      if new["last_event"] >= old["last_event"], do: new, else: old
    end)
    |> Map.values()
    |> Enum.sort_by(& &1["id"], :desc)
    |> Enum.take(@newest)
  end

  # The line may be long: its head tells enough. The queue hears of changes when this page does, and may be behind it.
  defp waiting(line) do
    {head, rest} = Enum.split(line, @newest)
    looked_up = for entry <- head, do: Map.put(entry, :job, entry.id |> Sango.get() |> ok(%{}))
    shown = Enum.filter(looked_up, &(&1.job["state"] in ["queued", "interrupted"]))
    %{shown: shown, count: length(shown) + length(rest)}
  end

  defp vm do
    memory = :erlang.memory([:total, :processes, :binary])

    %{
      memory: memory[:total],
      processes: memory[:processes],
      binaries: memory[:binary],
      process_count: :erlang.system_info(:process_count),
      schedulers: System.schedulers_online(),
      run_queue: :erlang.statistics(:run_queue),
      uptime: :wall_clock |> :erlang.statistics() |> elem(0)
    }
  end

  defp ok({:ok, value}, _default), do: value
  defp ok({:error, _}, default), do: default
end
