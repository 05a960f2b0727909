defmodule Sango.RoundsTest do
  @moduledoc """
  Submitting and cancelling again and again must leave nothing behind. `SANGO_SUBMIT_ROUNDS=10000` does it that often.
  """
  use Sango.Case, async: false

  @rounds "SANGO_SUBMIT_ROUNDS" |> System.get_env("1000") |> String.to_integer()
  @warm_up 500

  @tag timeout: :infinity
  test "threads and memory are back where they began", %{name: name} = context do
    start_native(context, keep_jobs: 100)
    {:ok, %{"id" => id}} = Sango.submit(picture(), name: name)
    {:ok, %{"state" => "finished"}} = Sango.await(id, 30_000, name: name)
    # Caches, pools and the store's remembered jobs fill up.
    rounds(name, 1..@warm_up)
    before = measure(name)
    {microseconds, _} = :timer.tc(fn -> rounds(name, (@warm_up + 1)..(@warm_up + @rounds)) end)
    later = measure(name)

    IO.puts("""

    #{@rounds} rounds of submit, subscribe, cancel, end in #{div(microseconds, 1_000_000)} s:
      threads        #{before.threads} before, #{later.threads} after
      resident MiB   #{mib(before.rss)} before, #{mib(later.rss)} after
      BEAM MiB       #{mib(before.beam)} before, #{mib(later.beam)} after
      processes      #{before.processes} before, #{later.processes} after
    """)

    assert later.threads == before.threads
    assert later.processes == before.processes
    assert later.rss - before.rss < 16 * 1_048_576
    assert later.beam - before.beam < 4 * 1_048_576
    assert :ets.info(:sys.get_state(process(name, :queue)).table, :size) == 0
    assert %{jobs: jobs, submissions: submissions} = :sys.get_state(process(name, :queue)).ledger
    assert {jobs, submissions} == {%{}, %{}}
    # And it still draws.
    {:ok, %{"id" => id}} = Sango.submit(picture(seed: 1), name: name)
    assert {:ok, %{"state" => "finished"}} = Sango.await(id, 30_000, name: name)
  end

  defp rounds(name, range) do
    for seed <- range do
      {:ok, %{"id" => id}} = Sango.submit(picture(steps: 100, seed: 1_000_000 + seed), name: name)
      :ok = Sango.subscribe(id, name: name)
      # Some are caught before they run, some in their first step, some later.
      if rem(seed, 10) == 0, do: Process.sleep(rem(seed, 7))
      # On a machine that was busy elsewhere one may have come to its end.
      {:ok, %{"state" => state}} = Sango.cancel(id, name: name)
      assert state in ["cancelled", "finished"]
      assert List.last(events(id))["event"] == state
    end

    # Feeds linger a moment for those who come late.
    eventually(fn -> assert DynamicSupervisor.count_children(process(name, :feeds)).active == 0 end)

    eventually(fn ->
      assert {:ok, %{"jobs" => %{"running" => 0, "queued" => 0}}} = Sango.stats(name: name)
    end)
  end

  defp measure(name) do
    for pid <- Process.list(), do: :erlang.garbage_collect(pid)
    {:ok, stats} = Sango.stats(name: name)

    %{
      threads: stats["threads"],
      rss: stats["rss_bytes"],
      beam: :erlang.memory(:total),
      processes: length(Process.list())
    }
  end

  defp mib(bytes), do: :erlang.float_to_binary(bytes / 1_048_576, decimals: 1)
end
