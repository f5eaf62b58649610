<?php
// Swoole: push() in a loop; `packed`: the frames of a turn packed once and sent together. php swoole.php PORT base|process [packed]
$mode = ($argv[2] ?? 'base') === 'process' ? SWOOLE_PROCESS : SWOOLE_BASE;
$packed = ($argv[3] ?? '') === 'packed';
$server = new Swoole\WebSocket\Server('127.0.0.1', (int) $argv[1], $mode);
$server->set(['worker_num' => 1, 'max_connection' => 15000, 'backlog' => 4096, 'log_level' => SWOOLE_LOG_ERROR,
    'open_tcp_nodelay' => true, 'send_yield' => true, 'buffer_output_size' => 32 << 20, 'enable_coroutine' => true]);
$subscribers = [];
$last = 0;

function message(int $sequence): string
{
    return sprintf('{"event":"m","channel":"b","data":"#%09d@%016d"}', $sequence, hrtime(true));
}

$server->on('open', function ($server, $request) use (&$subscribers) {
    if ($request->server['request_uri'] !== '/echo') {
        $subscribers[$request->fd] = true;
    }
});
$server->on('message', fn ($server, $frame) => $server->push($frame->fd, $frame->data));
$server->on('close', function ($server, $fd) use (&$subscribers) { unset($subscribers[$fd]); });

$server->on('workerStart', function ($server) use (&$subscribers, &$last, $packed) {
    $publish = function (int $burst) use ($server, &$subscribers, &$last, $packed) {
        $messages = [];
        for ($i = 0; $i < $burst; $i++) {
            $messages[] = message(++$last);
        }
        if ($packed) {
            $frames = implode('', array_map(fn ($text) => Swoole\WebSocket\Server::pack($text), $messages));
            foreach ($subscribers as $fd => $_) {
                $server->send($fd, $frames);
            }
            return;
        }
        foreach ($messages as $text) {
            foreach ($subscribers as $fd => $_) {
                $server->push($fd, $text);
            }
        }
    };
    $obey = function (string $line) use ($publish, &$last) {
        [$name, $first, $second] = explode(' ', $line);
        $start = hrtime(true);
        if ($name === 'flood') {
            while (hrtime(true) < $start + $second * 1e6) {
                $publish((int) $first);
                $me = Swoole\Coroutine::getCid();
                Swoole\Event::defer(fn () => Swoole\Coroutine::resume($me)); // when the loop has turned
                Swoole\Coroutine::yield();
            }
        } else {
            for ($i = 0; $i < $second; $i++) {
                $wait = ($start + $i * $first * 1e3 - hrtime(true)) / 1e9;
                if ($wait >= 0.001) {
                    Swoole\Coroutine::sleep($wait);
                }
                $publish(1);
            }
        }
        fwrite(STDOUT, json_encode(['published' => $last]) . "\n");
    };
    Swoole\Event::add(STDIN, function () use ($server, $obey) {
        $line = fgets(STDIN);
        if ($line === false) {
            $server->shutdown();
        } else {
            go($obey, trim($line));
        }
    });
    fwrite(STDOUT, json_encode(['ready' => true]) . "\n");
});
$server->start();
