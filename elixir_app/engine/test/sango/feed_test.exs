defmodule Sango.FeedTest do
  use Sango.Case, async: true

  import Sango.Property

  alias Sango.MemoryBackend, as: Memory

  setup context do
    start_memory(context)
    {:ok, %{"id" => id}} = Sango.submit(%{prompt: "a"}, name: context.name, detached: true)
    {:ok, id: id}
  end

  # A process that subscribes after `n`, and gives the numbers it was told.
  defp subscriber(name, id, n) do
    test = self()

    task =
      Task.async(fn ->
        :ok = Sango.subscribe(id, name: name, after: n)
        send(test, {:subscribed, self()})
        Enum.map(events(id), & &1["n"])
      end)

    pid = task.pid
    assert_receive {:subscribed, ^pid}, 5_000
    task
  end

  defp run(name, id, steps) do
    Memory.start_next(name)
    for _ <- 1..steps, do: Memory.step(name, id)
    Memory.finish(name, id)
  end

  test "1,000 subscribers see every event once and in order, late ones too", %{name: name, id: id} do
    Memory.start_next(name)

    tasks =
      for n <- 1..1_000 do
        if rem(n, 25) == 0, do: Memory.step(name, id)
        after_n = rem(n, 7)
        {after_n, subscriber(name, id, after_n)}
      end

    # One feed serves them all.
    assert map_size(:sys.get_state(process(name, {:feed, id})).subscribers) == 1_000
    assert map_size(:sys.get_state(Memory.handle(name)).feeds) == 1
    Memory.finish(name, id)
    for {after_n, task} <- tasks, do: assert(Task.await(task) == Enum.to_list((after_n + 1)..43))
  end

  test "any mixture of subscribers, steps and crashes: each sees everything once", context do
    %{name: name} = context

    for_all(15, fn ->
      {:ok, %{"id" => id}} = Sango.submit(%{prompt: "a"}, name: name, detached: true)
      # Other jobs may wait before it.
      run_until(name, id)

      tasks =
        for _ <- 1..between(1, 12) do
          for _ <- 1..between(1, 3), do: Memory.step(name, id)

          if between(1, 4) == 1 do
            # Between two events, so that none is half passed on.
            with pid when is_pid(pid) <- process(name, {:feed, id}) do
              :sys.get_state(pid)
              kill_and_wait(name, {:feed, id})
            end
          end

          n = between(0, 8)
          {n, subscriber(name, id, n)}
        end

      Memory.finish(name, id)
      {:ok, %{"last_event" => last}} = Sango.get(id, name: name)
      for {n, task} <- tasks, do: assert(Task.await(task) == Enum.to_list((n + 1)..last//1))
    end)
  end

  defp run_until(name, id) do
    if Memory.start_next(name) != id, do: run_until(name, id)
  end

  test "a job that has ended is replayed, and the end is told", %{name: name, id: id} do
    run(name, id, 3)
    assert Task.await(subscriber(name, id, 0)) == [1, 2, 3, 4, 5, 6]
    assert Task.await(subscriber(name, id, 4)) == [5, 6]
    assert Task.await(subscriber(name, id, 99)) == []
  end

  test "an unknown job is an error, and starts nothing", %{name: name} do
    assert {:error, %Sango.Error{code: "unknown_job"}} = Sango.subscribe("nobody", name: name)
    assert process(name, {:feed, "nobody"}) == nil
  end

  test "subscribing again starts over, unsubscribing ends it", %{name: name, id: id} do
    :ok = Sango.subscribe(id, name: name)
    assert_receive {:sango, :event, ^id, %{"n" => 1}}
    :ok = Sango.subscribe(id, name: name)
    assert_receive {:sango, :event, ^id, %{"n" => 1}}
    Memory.start_next(name)
    assert_receive {:sango, :event, ^id, %{"n" => 2}}
    refute_receive {:sango, :event, ^id, %{"n" => 2}}, 20
    :ok = Sango.unsubscribe(id, name: name)
    Memory.step(name, id)
    refute_receive {:sango, _, _, _}, 20
    :ok = Sango.unsubscribe(id, name: name)
  end

  test "a subscriber that dies is forgotten, and a feed nobody listens to ends", %{name: name, id: id} do
    {pid, :ok} = asker(fn -> Sango.subscribe(id, name: name) end)
    feed = process(name, {:feed, id})
    table = :sys.get_state(feed).table
    monitor = Process.monitor(feed)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, :process, ^feed, :normal}, 5_000
    assert :ets.match(table, {{:subscriber, :_, :"$1"}, :_}) == []
    assert :ets.match(table, {{:told, :"$1"}, :_}) == []
    # The engine need not know of it any more.
    eventually(fn -> assert :sys.get_state(Memory.handle(name)).feeds == %{} end)
  end

  @tag :capture_log
  test "subscriptions outlive the engine", %{name: name, id: id} do
    task = subscriber(name, id, 0)
    Memory.start_next(name)
    kill_and_wait(name, :owner)
    eventually(fn -> assert Memory.start_next(name) == id end)
    Memory.finish(name, id)
    # queued, started, queued again by the new engine, started, finished
    assert Task.await(task) == [1, 2, 3, 4, 5]
  end

  test "an instance that stops tells its subscribers", %{name: name, id: id} do
    task = subscriber(name, id, 0)
    stop_supervised!(name)
    assert Task.await(task) == [1]
  end

  test "waiting for the end leaves the mailbox alone", %{name: name, id: id} do
    assert {:error, %Sango.Error{code: "not_finished", status: 409}} = Sango.await(id, 20, name: name)
    waiting = Task.async(fn -> {Sango.await(id, 5_000, name: name), Process.info(self(), :messages)} end)
    eventually(fn -> assert map_size(:sys.get_state(process(name, {:feed, id})).subscribers) > 0 end)
    run(name, id, 1)
    assert {{:ok, %{"state" => "finished"}}, {:messages, []}} = Task.await(waiting)
    assert {:ok, %{"state" => "finished"}} = Sango.await(id, 5_000, name: name)
    assert {:error, %Sango.Error{code: "unknown_job"}} = Sango.await("nobody", 5_000, name: name)
  end

  test "watchers are told of every job", %{name: name, id: id} do
    :ok = Sango.watch(name: name)
    :ok = Sango.watch(name: name)
    Memory.start_next(name)
    assert_receive {:sango, :job, %{"id" => ^id, "state" => "running"}}
    refute_receive {:sango, :job, _}, 20
    Memory.lag(name)
    assert_receive {:sango, :lagged, 1}
    :ok = Sango.unwatch(name: name)
    Memory.finish(name, id)
    refute_receive {:sango, :job, _}, 20
  end

  @tag :capture_log
  test "watchers outlive the engine, and are told that they may have missed something", %{name: name, id: id} do
    :ok = Sango.watch(name: name)
    kill_and_wait(name, :owner)
    assert_receive {:sango, :lagged, 0}, 5_000
    eventually(fn -> assert Memory.start_next(name) == id end)
    assert_receive {:sango, :job, %{"id" => ^id, "state" => "running"}}, 5_000
  end
end
